"""One run of a sweep: named by its config's hash, made by one process at a time, and only once."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.compose import finish_config
from mar_accel.errors import ConfigError
from mar_accel.runs.identity import config_hash
from mar_accel.runs.record import prepare_output_dir
from mar_accel.runs.sweep_result import DONE, ELSEWHERE, FAILED, SKIPPED, RunResult

# The sweep that a job belongs to; its launcher hands it on to every job, wherever that runs.
SWEEP_VARIABLE = "MAR_ACCEL_SWEEP"
RESULTS, LOCKS, BASELINES = ".results", ".locks", "baselines"


def run_job(
    function: Callable[[DictConfig], None],
    config: DictConfig,
    finished_file: str,
    sentence: Callable[[Exception], str | None],
) -> None:
    """Make a run of a sweep, unless it is finished or another sweep is at it; errors do not leave.

    Args:
        function: the command.
        config: as Hydra composed it.
        finished_file: the file in a run folder that only a finished run has.
        sentence: what to tell the user about an error; None where it is a fault of the program.
    """
    job = HydraConfig.get().job
    sweep_dir = Path(HydraConfig.get().sweep.dir).absolute()
    result = RunResult(job.num, tuple(HydraConfig.get().overrides.task), FAILED, finished_file)
    try:
        config = finish_config(config)
        folder = name_run(config, sweep_dir)
        result = replace(result, folder=str(folder))
        result = _make_run(function, config, folder, result)
    except Exception as error:
        reason = sentence(error)
        result = replace(result, reason=reason or f"{type(error).__name__}: {error}")
        print(f"error: run {job.num}: {result.reason}", file=sys.stderr)
        if reason is None:
            _keep_traceback(result)
    result.write(results_dir(sweep_dir))
    _free_memory()


def results_dir(sweep_dir: Path) -> Path:
    """Where the runs of this sweep say how they ended."""
    return sweep_dir / RESULTS / os.environ.get(SWEEP_VARIABLE, "sweep")


def name_run(config: DictConfig, sweep_dir: Path) -> Path:
    """Give a run its folder below the sweep's, and what all runs of a sweep share. Changes ``config``."""
    if not OmegaConf.is_interpolation(config, "output_dir"):
        raise ConfigError(
            f"output_dir={config.output_dir} is one folder, and a sweep has many; "
            "give the folder that holds them as hydra.sweep.dir."
        )
    folder = sweep_dir / f"{config.model.name}-{config_hash(config, measured=True)}"
    config.output_dir = str(folder)
    config[config.command].resume = True
    if config.command == "evaluate" and config.evaluate.baseline_dir is None:
        config.evaluate.baseline_dir = str(sweep_dir / BASELINES)
    return folder


def wait_until_free(folder: Path) -> None:
    """Wait until no process is at a run."""
    with _lock(folder):
        return


def _make_run(
    function: Callable[[DictConfig], None], config: DictConfig, folder: Path, result: RunResult
) -> RunResult:
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return replace(result, status=ELSEWHERE)
    try:
        finished = result.record is not None
        if not finished:
            function(config)
            _report(folder).unlink(missing_ok=True)
        return replace(result, status=SKIPPED if finished else DONE, metrics=recorded_metrics(result))
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    """The lock of a run; the system frees it where its process was killed."""
    return FileLock(prepare_output_dir(folder.parent / LOCKS, "hydra.sweep.dir") / f"{folder.name}.lock")


def recorded_metrics(result: RunResult) -> dict[str, Any]:
    """The numbers on top of a finished run's record."""
    assert result.record is not None
    record = json.loads(result.record.read_text())
    return {key: value for key, value in record.items() if isinstance(value, (int, float))}


def _report(folder: Path) -> Path:
    """Where the traceback of a run lies, if it failed through no fault of its config."""
    return folder.with_name(f"{folder.name}.error.txt")


def _keep_traceback(result: RunResult) -> None:
    if result.folder is not None:
        _report(Path(result.folder)).write_text(traceback.format_exc())


def _free_memory() -> None:
    """The next run of this process finds the memory of this one free, even where it ran out of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
