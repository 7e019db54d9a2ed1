"""Real power cuts: a file system is shut down in mid-run, and what is on its device is looked at."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mar_accel.data.run_images import PngImages, RunImages
from mar_accel.data.shards import FORMATS
from mar_accel.errors import ExitCode

NUM_IMAGES, NUM_CUTS, SHAPE = 400, 4, (1, 32, 32)
# From the kernel's headers: end all writes at once, and do not write the journal first.
_SHUTDOWN, _WITHOUT_JOURNAL = 0x8004587D, 2


def _can_mount() -> bool:
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount"))
    return tools and os.geteuid() == 0 and Path("/dev/loop-control").exists()


class _Disk:
    """An ext4 file system in a file, with the defaults of mkfs and mount."""

    def __init__(self, folder: Path):
        self.file, self.folder = folder / "disk.img", folder / "disk"
        self.folder.mkdir()
        with self.file.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mkfs.ext4", "-q", self.file], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.file, self.folder], check=True)

    def cut(self) -> None:
        """Cut the power: what has not reached the device by now never does."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_JOURNAL))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        subprocess.run(["umount", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[_Disk]:
    made = _Disk(tmp_path)
    yield made
    subprocess.run(["umount", "--lazy", made.folder], check=False)


@pytest.mark.long
@pytest.mark.skipif(not _can_mount(), reason="needs root and loop devices")
@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS.keys())
def test_power_cuts_leave_whole_images_and_no_false_record(
    kind: type[RunImages],
    disk: _Disk,
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    draw, folder = random.Random(0), disk.folder / "run"
    arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", f"generate.format={kind.name}"]
    arguments += ["generate.resume=true", f"output_dir={folder}"]
    images = kind(folder)
    kept = 0
    for _ in range(NUM_CUTS):
        process = start(tmp_path, "generate", *arguments, f"trainer.batch_size={draw.randint(1, 5)}")
        enough = len(images.indices()) + draw.randint(10, 60)
        wait_for(lambda enough=enough: len(images.indices()) >= enough, process)
        written = len(images.indices())
        disk.cut()
        process.communicate()
        assert process.returncode not in (ExitCode.DONE, None)
        disk.unmount()
        disk.mount()
        assert not (folder / "run.json").exists()
        there = images.indices()
        assert images.whole(SHAPE) == set(there), "every image that has a name can be read"
        # What was counted is there but for the batch that was being written, whose names were not synced.
        assert len(there) >= written - 5 and len(there) >= kept
        kept = len(there)
        print(f"{kind.name}: cut after {written} images, {len(there)} on the device, all whole")
    process = start(tmp_path, "generate", *arguments)
    _, stderr = process.communicate()
    disk.cut()  # at once
    assert process.returncode == ExitCode.DONE, stderr
    disk.unmount()
    disk.mount()
    assert images.indices() == list(range(NUM_IMAGES)) and images.whole(SHAPE) == set(range(NUM_IMAGES))
    assert json.loads((folder / "run.json").read_text())["num_images"] == NUM_IMAGES
    assert (folder / "config.yaml").stat().st_size and (folder / "grid.png").stat().st_size
    outcome = run_here("generate", *arguments)
    assert outcome.status == ExitCode.DONE and "0 images in" in outcome.stdout


@pytest.mark.long
@pytest.mark.skipif(not _can_mount(), reason="needs root and loop devices")
def test_a_cut_loses_what_is_not_synced(disk: _Disk) -> None:
    """The test above would see it."""
    for index in range(20):
        (disk.folder / f"{index}.png").write_bytes(b"content")
    folder = disk.folder / "run"
    folder.mkdir()
    disk.cut()
    disk.unmount()
    disk.mount()
    assert not folder.exists() and not PngImages(folder).indices()
    assert not any(file.stat().st_size for file in disk.folder.glob("*.png"))
