"""Launchers: their processes share one run, a stray variable does not count, half a launch is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.data.run_images import image_indices
from mar_accel.errors import ConfigError, ExitCode
from mar_accel.inference.started_by import join_launch, launch
from mar_accel.utils.ranks import is_first_process, set_rank

ROOT = Path(__file__).parents[2]
FEW = ["dataset.num_images=4", "trainer.batch_size=2"]
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
SRUN |= {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    yield
    set_rank(0)


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


STRAYS: dict[str, dict[str, str]] = {
    "RANK": {"RANK": "1"},
    "RANK and WORLD_SIZE": {"RANK": "1", "WORLD_SIZE": "2"},
    "LOCAL_RANK": {"LOCAL_RANK": "1"},
    "SLURM_PROCID": {"SLURM_PROCID": "1"},
    "JSM_NAMESPACE_RANK": {"JSM_NAMESPACE_RANK": "3"},
    "batch script of Slurm": {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "4"},
    "interactive Slurm": {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0"},
    "one task of srun": {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "1"},
}


@pytest.mark.parametrize("variables", STRAYS.values(), ids=STRAYS.keys())
def test_variables_of_another_job_do_not_count(
    variables: dict[str, str],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _set(monkeypatch, variables)
    # As Lightning sets it when it is imported.
    set_rank(int(next(iter(variables.values()))))
    outcome = run_here("generate", *tiny_model, *FEW, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.DONE, outcome.stderr
    assert image_indices(tmp_path / "run") == [0, 1, 2, 3] and (tmp_path / "run" / "run.json").exists()
    assert is_first_process() and "4 images" in outcome.stdout


REFUSED: dict[str, tuple[dict[str, str], list[str], str]] = {
    "torchrun without devices": (TORCHRUN, [], "torchrun has started 2 process(es), but trainer.devices × "),
    "torchrun, other devices": (TORCHRUN, ["trainer=ddp_cpu", "trainer.devices=3"], "trainer.num_nodes is 3"),
    "srun without devices": (SRUN, [], "srun has started 2 process(es), but trainer.devices × "),
    "one task, two devices": (
        {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "1"},
        ["trainer=ddp_cpu"],
        "srun has started 1 process(es)",
    ),
    "tasks per node": ({**SRUN, "SLURM_NTASKS_PER_NODE": "1"}, ["trainer=ddp_cpu"], "srun does not fit "),
    "no tasks per node": (
        {name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"},
        ["trainer=ddp_cpu"],
        "trainer: You set `--ntasks=2`",
    ),
    "half a launch": ({"LOCAL_RANK": "1"}, ["trainer=ddp_cpu"], "LOCAL_RANK is set, but MASTER_ADDR"),
    "no number": ({**SRUN, "SLURM_NTASKS": "two"}, [], "the variable SLURM_NTASKS must be a number, got two"),
    "sweep": (TORCHRUN, ["-m", "seed=0,1"], "a sweep (-m) starts as one process, but torchrun has started 2"),
    "sweep in srun": (SRUN, ["-m", "seed=0,1"], "a sweep (-m) starts as one process, but srun has started 2"),
}


@pytest.mark.parametrize(("variables", "arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_launches_that_do_not_fit_are_refused_before_anything_is_written(
    variables: dict[str, str],
    arguments: list[str],
    words: str,
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _set(monkeypatch, variables)
    outcome = run_here("generate", *arguments, *tiny_model, *FEW)
    assert outcome.status == ExitCode.REFUSED and words in outcome.stderr
    assert "Traceback" not in outcome.stderr and not list(tmp_path.iterdir())


def test_a_command_of_one_process_is_refused(
    run_here: Any, tiny_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, TORCHRUN)
    outcome = run_here("plan", *tiny_model, "trainer=ddp_cpu")
    assert outcome.status == ExitCode.REFUSED and "mar_accel.plan runs in one process" in outcome.stderr


def test_own_processes_are_no_launch(monkeypatch: pytest.MonkeyPatch, tiny_model: list[str]) -> None:
    assert launch() is None
    settings = compose_settings("generate", tiny_model)
    assert join_launch(settings) is settings
    _set(monkeypatch, {**TORCHRUN, "MAR_ACCEL_PARENT_CONFIG": "config.yaml"})
    assert launch() is None


STRATEGIES = ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_false"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_without_a_command_line_are_refused(strategy: str, tiny_model: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"trainer.strategy={strategy} starts processes without"):
        compose_settings("generate", [*tiny_model, "trainer=ddp_cpu", f"trainer.strategy={strategy}"])


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_torchrun_names_one_default_folder(tiny_model: list[str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]
    command = [*torchrun, "mar_accel.generate", *tiny_model, *FEW, "trainer=ddp_cpu", "trainer.batch_size=1"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "generate").iterdir()
    assert image_indices(folder) == [0, 1, 2, 3]
    assert json.loads((folder / "run.json").read_text())["num_processes"] == 2
    assert done.stdout.count("4 images in") == 1, "the first process speaks"


@pytest.mark.slow
def test_srun_names_one_default_folder(tiny_model: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_model, "dataset.num_images=4", "trainer=ddp_cpu", "trainer.batch_size=1"]
    command = [sys.executable, "-m", "mar_accel.generate", *arguments]
    port = str(20000 + os.getpid() % 20000)
    tasks = []
    for task in ("0", "1"):
        variables = {**SRUN, "SLURM_PROCID": task, "SLURM_LOCALID": task, "MASTER_PORT": port}
        environment = _environment(**variables, MASTER_ADDR="127.0.0.1")
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        tasks.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes))
    outputs = [task.communicate() for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    (folder,) = (tmp_path / "outputs" / "generate").iterdir()
    assert image_indices(folder) == [0, 1, 2, 3]
    assert json.loads((folder / "run.json").read_text())["num_processes"] == 2
