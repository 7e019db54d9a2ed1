"""Runs on disks that fill up or cannot be written, and in folders with odd files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mar_accel.utils.images import image_name

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with the given options, where privileges allow that."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs the privilege to mount a file system")
        return folder

    yield mounted
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def _refused(outcome: Any, *parts: str) -> None:
    assert outcome.status == 2, outcome
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)


def test_disk_that_fills_up_keeps_whole_images(
    mount: Mount, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    disk = mount("size=96k")
    arguments = [*tiny_model, f"output_dir={disk / 'run'}", "trainer.batch_size=4", "dataset.num_images=60"]
    outcome = run_here("generate", *arguments)
    _refused(outcome, str(disk), "No space left on device); free some space, then run the same command again")
    images = sorted((disk / "run" / "images").glob("*.png"))
    assert 0 < len(images) < 60 and [file.name for file in images] == list(
        map(image_name, range(len(images)))
    )
    for file in images:
        with Image.open(file) as image:
            image.load()
    assert not (disk / "run" / "run.json").exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert run_here("generate", *arguments, "generate.resume=true").status == 0
    assert len(list((disk / "run" / "images").glob("*.png"))) == 60 and (disk / "run" / "run.json").is_file()


def test_disk_that_is_full_from_the_start(mount: Mount, run_here: Any, tiny_model: list[str]) -> None:
    disk = mount("size=16k")
    with suppress_full(disk / "filler"):
        (disk / "filler").write_bytes(bytes(1 << 20))
    for command in ("generate", "plan", "train_features"):
        own = tiny_model if command != "train_features" else []
        _refused(run_here(command, *own, f"output_dir={disk / 'run'}"), "No space left on device")


class suppress_full:
    """Ignores that a disk is full, which is what a test wants."""

    def __init__(self, file: Path):
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return isinstance(error, OSError) and self.file.exists()


@pytest.mark.parametrize("command", ["generate", "evaluate", "plan", "benchmark", "redundancy"])
def test_disk_that_cannot_be_written(
    command: str, mount: Mount, run_here: Any, tiny_model: list[str]
) -> None:
    disk = mount("ro")
    _refused(
        run_here(command, *tiny_model, f"output_dir={disk / 'run'}"),
        f"output_dir={disk / 'run'} cannot be written (Read-only file system)",
    )


@pytest.mark.parametrize("name", ["run.json", ".identity.json", "config.yaml", "metrics.json"])
def test_pipe_in_a_run_folder_is_no_file(
    name: str, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / name)
    outcome = run_here("generate", *tiny_model, "dataset.num_images=2", f"output_dir={folder}")
    assert outcome.status == 0, outcome
    assert (folder / "run.json").is_file()


@pytest.mark.parametrize("name", ["tokens.safetensors", "run.json"])
def test_pipe_in_a_folder_of_images(name: str, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(4):
        Image.new("L", (32, 32), index).save(tmp_path / "images" / image_name(index))
    os.mkfifo(tmp_path / name)
    arguments = [f"evaluate.images={tmp_path}", "reference.augmentations=0", f"output_dir={tmp_path / 'out'}"]
    outcome = run_here("evaluate", *tiny_model, *arguments)
    assert outcome.status == 0, outcome
