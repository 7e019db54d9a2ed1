"""Sweeps through other launchers: made once, gone on with after a kill, and the same table as one by one."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra.core.utils
import pytest
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

from mar_accel.runs.entry import command
from mar_accel.runs.task import Task, task_of

Start = Callable[..., "subprocess.Popen[str]"]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=30"],
    "ray": ["hydra/launcher=ray", "hydra.launcher.init.num_cpus=2"],
}
MODULES = {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "submitit", "ray": "ray"}
# Numbers that depend on the moment, and what names it.
TIMED = (
    "latency",
    "throughput",
    "peak",
    "achieved",
    "speedup",
    "seconds",
    "images_per",
    "timed_with",
    "status",
    # Of the timed batches: a run that was killed after its last batch has timed none.
    "batch_size",
)


def _arguments(tiny_model: list[str], sweep: Path) -> list[str]:
    return [
        *("-m", *tiny_model, "dataset.num_images=40", "trainer.batch_size=2", "reference.augmentations=0"),
        *("evaluate.fidelity_images=4", "evaluate.timing_rounds=0", "evaluate.profile=false"),
        *("evaluate.baseline_sampler.num_iter=5", "evaluate.baseline_sampler.num_diffusion_steps=3"),
        *(f"reference.cache_dir={sweep.parent / 'statistics'}", f"hydra.sweep.dir={sweep}"),
        *("cache=none,lazymar", "cache.token.ratios=0.1,0.2"),
    ]


def _table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows]


def _run(start: Start, tmp_path: Path, *arguments: str) -> str:
    process = start(tmp_path, "evaluate", *arguments)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout[-2000:] + stderr[-4000:]
    return stdout


# Each takes minutes. What a process needs of a task is tested below.
@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_gives_the_table_of_a_sweep_one_by_one(
    launcher: str, start: Start, tiny_model: list[str], tmp_path: Path
) -> None:
    if not importlib.util.find_spec(MODULES[launcher].partition(".")[0]):
        pytest.skip(f"{launcher} is not installed")
    serial, parallel = tmp_path / "serial", tmp_path / "parallel"
    assert "3 done" in _run(start, tmp_path, *_arguments(tiny_model, serial))
    arguments = [*_arguments(tiny_model, parallel), *LAUNCHERS[launcher]]
    # Killed in the middle, with all its processes, it goes on.
    process = start(tmp_path, "evaluate", *arguments)
    while process.poll() is None and len(list(parallel.glob("*/images/*.png"))) < 30:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {file: file.stat().st_mtime_ns for file in parallel.glob("*/metrics.json")}
    stdout = _run(start, tmp_path, *arguments)
    assert "failed" not in stdout.splitlines()[-1]
    assert all(file.stat().st_mtime_ns == made for file, made in finished.items()), "made twice"
    assert "3 skipped" in _run(start, tmp_path, *arguments)
    ours, theirs = _table(parallel), _table(serial)
    assert len(ours) == len(theirs) == 3
    differing = [
        (own["run"], k, own.get(k), other.get(k))
        for own, other in zip(ours, theirs, strict=True)
        for k in {*own, *other}
        if own.get(k) != other.get(k)
    ]
    assert differing == []


def test_a_task_is_found_by_the_name_of_its_command(tmp_path: Path) -> None:
    import cloudpickle

    @command("generate", finished_file="run.json")
    def main(settings: Any) -> None:
        """As under ``python -m``: a function that other processes cannot import."""

    task = main.task()  # type: ignore[attr-defined]
    found = cloudpickle.loads(cloudpickle.dumps(task))
    assert isinstance(found, Task) and found.name == "generate"
    assert found.function.__module__ == "mar_accel.generate" != task.function.__module__
    assert task_of("evaluate").finished_file == "metrics.json"


def test_a_task_of_ray_works_in_the_folder_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of a cluster start in the folder in which Ray was started on their machine."""
    from hydra_plugins.mar_accel_sweepers import ray as launcher_module

    seen: list[tuple[Path, bool]] = []
    # Hydra executes plugins once more when it starts, so their names are not only those of the module.
    monkeypatch.setattr("hydra.core.utils.run_job", lambda **_: seen.append((Path.cwd(), in_path())))
    monkeypatch.setitem(launcher_module._run.__globals__, "run_job", hydra.core.utils.run_job)
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()

    def in_path() -> bool:
        return str(own) in sys.path or "" in sys.path

    class Context:
        config_loader = SimpleNamespace(
            load_sweep_config=lambda *_: OmegaConf.create({"hydra": {"job": {"name": "evaluate"}}})
        )

    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(other)
    state = Singleton.get_state()
    receiver, sender = multiprocessing.Pipe()

    def run() -> None:
        launcher_module._run(str(own), Context(), None, None, state, [], 3)
        sender.send(seen)

    # In a process of its own, since it prepares its process for good, and this one has other tests to run.
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0 and receiver.recv() == [(own, True)]
