"""Real disks that are full or read-only: one sentence, whole images, no record, and the run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mar_accel.data.image_sets import open_images
from mar_accel.data.shards import FORMATS
from mar_accel.errors import ExitCode

NUM_IMAGES, BATCH = 60, 4


def _can_mount(folder: Path) -> bool:
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], check=False)
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB, which some of the images of a run fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _can_mount(folder):
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=False)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_is_one_sentence_and_costs_no_image(
    kind: str, small_disk: Path, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    folder = small_disk / "run"
    arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", f"generate.format={kind}"]
    arguments += [f"output_dir={folder}", f"trainer.batch_size={BATCH}"]
    full = run_here("generate", *arguments)
    assert full.status == ExitCode.REFUSED, full.stderr
    (line,) = full.stderr.splitlines()
    assert line.startswith(f"error: {folder}") and "(No space left on device)" in line
    images = FORMATS[kind](folder)
    kept = images.indices()
    # With .npz, all shards fit, and the file that they are joined into does not.
    assert 0 < len(kept) <= NUM_IMAGES and images.whole((1, 32, 32)) == set(kept)
    assert not (folder / "run.json").exists() and not list(images.folder.glob(".*"))
    _remount(small_disk, "size=20m")
    again = run_here("generate", *arguments, "generate.resume=true")
    assert again.status == ExitCode.DONE, again.stderr
    assert f"{len(kept) // BATCH * BATCH} were there already" in again.stdout
    assert open_images(folder).num_images == NUM_IMAGES


def test_a_disk_that_turns_read_only_is_one_sentence(
    small_disk: Path, run_here: Any, tiny_model: list[str]
) -> None:
    folder = small_disk / "run"
    arguments = [*tiny_model, "dataset.num_images=4", f"output_dir={folder}"]
    assert run_here("generate", *arguments).status == ExitCode.DONE
    before = sorted(file.name for file in folder.rglob("*"))
    _remount(small_disk, "ro")
    outcome = run_here("generate", *arguments)
    assert (
        outcome.status == ExitCode.REFUSED and "cannot be written (Read-only file system)" in outcome.stderr
    )
    assert sorted(file.name for file in folder.rglob("*")) == before
