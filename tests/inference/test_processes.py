"""Runs with several processes end together, whichever of them ends first."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mar_accel.data.run_images import image_indices
from mar_accel.errors import ExitCode
from mar_accel.inference import processes
from mar_accel.inference.children import further_processes
from mar_accel.inference.processes import end_with_parent
from mar_accel.utils.images import image_name

NUM_IMAGES = 200


def test_a_process_ends_when_its_parent_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended: list[int] = []
    over = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        over.set()

    monkeypatch.setattr(os, "_exit", end)
    end_with_parent()  # not a further process, so nothing is watched
    with further_processes(tmp_path / "config.yaml"):
        assert os.environ[processes.PARENT_VARIABLE] == str(os.getpid())
        monkeypatch.setenv("LOCAL_RANK", "1")
        # The parent of this process is another one, as if the recorded one had ended.
        end_with_parent()
    over.wait()
    assert ended == [ExitCode.STOPPED]


def _further(process: subprocess.Popen[str]) -> list[int]:
    """Ids of the processes that a process has started and that sample too."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"mar_accel" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# All five take two minutes; CI runs one of each side.
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the processes in /proc")
@pytest.mark.parametrize(
    ("to_first", "stop"),
    [
        pytest.param(True, signal.SIGKILL, marks=pytest.mark.slow, id="first killed"),
        pytest.param(True, signal.SIGHUP, marks=pytest.mark.long, id="first hung up"),
        pytest.param(True, signal.SIGTERM, marks=pytest.mark.long, id="first stopped"),
        pytest.param(False, signal.SIGTERM, marks=pytest.mark.slow, id="further stopped"),
        pytest.param(False, signal.SIGKILL, marks=pytest.mark.long, id="further killed"),
    ],
)
def test_processes_end_together_and_the_run_goes_on_at_once(
    to_first: bool,
    stop: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", f"output_dir={folder}"]
    process = start(tmp_path, "generate", *arguments, "trainer=ddp_cpu", "trainer.batch_size=1")
    wait_for(lambda: len(image_indices(folder)) > 3, process)
    (further,) = _further(process)
    os.kill(process.pid if to_first else further, stop)
    process.wait()
    if to_first and stop == signal.SIGKILL:
        # At once, beside the other process, and with two processes again.
        again = ["trainer=ddp_cpu", "trainer.batch_size=3", "generate.resume=true"]
        second = start(tmp_path, "generate", *arguments, *again)
        _, stderr = second.communicate()
        assert second.returncode == ExitCode.DONE, stderr
        assert image_indices(folder) == list(range(NUM_IMAGES)) and (folder / "run.json").exists()
        assert not _runs(further)
        return
    while _runs(further):
        time.sleep(0.02)
    _, stderr = process.communicate()
    if stop == signal.SIGTERM:
        assert process.returncode == ExitCode.STOPPED, stderr
        assert ("stopped: " if to_first else "error: process 1 of this run was stopped") in stderr
    if not to_first and stop == signal.SIGKILL:
        assert process.returncode == ExitCode.STOPPED, stderr
        assert "error: process 1 of this run was killed (SIGKILL)" in stderr
    assert process.returncode != 0 and len(image_indices(folder)) < NUM_IMAGES
    assert not (folder / "run.json").exists()
    outcome = run_here("generate", *arguments, "trainer.batch_size=7", "generate.resume=true")
    assert outcome.status == ExitCode.DONE, outcome.stderr
    assert image_indices(folder) == list(range(NUM_IMAGES))
    assert json.loads((folder / "run.json").read_text())["num_images"] == NUM_IMAGES


OWN = """
import os

from mar_accel.sampling.orders import RandomOrder


class Faulty(RandomOrder):
    def permutation(self, grid, generator):
        if os.environ.get("LOCAL_RANK") == "1":
            raise KeyError("broken on the second process")
        return super().permutation(grid, generator)


class Fine(RandomOrder):
    pass
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the processes in /proc")
def test_a_process_that_fails_ends_its_run_of_a_sweep_alone(
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    classes = "mar_accel.sampling.orders.RandomOrder,own_parts.Faulty,own_parts.Fine"
    arguments = ["-m", *tiny_model, "dataset.num_images=60", "trainer=ddp_cpu", "trainer.batch_size=1"]
    sweep = tmp_path / "sweep"
    process = start(
        tmp_path, "generate", *arguments, f"sampler.order._target_={classes}", f"hydra.sweep.dir={sweep}"
    )
    wait_for(lambda: len(list(sweep.glob("*/images/*.png"))) > 3, process)
    (further,) = _further(process)
    os.kill(further, signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert process.returncode == ExitCode.REFUSED, stderr
    assert "run 0 failed: process 1 of this run was killed (SIGKILL)" in stdout
    assert "run 1 failed: process 1 of this run failed: " in stdout and "broken on the second" in stdout
    assert "1 done, 2 failed" in stdout
    (record,) = sweep.glob("*/run.json")
    assert image_indices(record.parent) == list(range(60))


@pytest.mark.slow
def test_images_that_appear_in_mid_run_change_nothing(
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    """As an orphan of an earlier run writes them, after the images that are there were listed."""
    folder, whole = tmp_path / "run" / "images", tmp_path / "whole" / "images"
    arguments = [*tiny_model, "dataset.num_images=60"]
    assert run_here("generate", *arguments, f"output_dir={whole.parent}").status == ExitCode.DONE
    shutil.copytree(whole.parent, folder.parent)
    (folder.parent / "run.json").unlink()
    for index in range(20, 60):
        (folder / image_name(index)).unlink()
    again = ["trainer=ddp_cpu", "trainer.batch_size=1", "generate.resume=true"]
    process = start(tmp_path, "generate", *arguments, f"output_dir={folder.parent}", *again)
    wait_for(lambda: len(list(folder.glob("*.png"))) > 21, process)
    shutil.copy(whole / image_name(58), folder)
    shutil.copy(whole / image_name(57), folder)
    _, stderr = process.communicate()
    assert process.returncode == ExitCode.DONE, stderr
    assert image_indices(folder.parent) == list(range(60))
    record = json.loads((folder.parent / "run.json").read_text())
    assert record["num_images"] == 60 and record["num_sampled"] == 40
