"""One run of a sweep: named by the hash of its config, made only once and by one process at a time."""

from __future__ import annotations

import gc
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.metrics.catalogue import GENERATE_METRICS, METRICS, keys_of
from mar_accel.runs.folder import IMAGES, RECORD_FILE, share_images
from mar_accel.runs.identity import Identity
from mar_accel.runs.record import environment, prepare_output_dir, read_json
from mar_accel.runs.sweep_result import DONE, ELSEWHERE, FAILED, SKIPPED, RunResult

# Name of the sweep that a job belongs to. Launchers pass the variable to every job.
SWEEP_VARIABLE = "MAR_ACCEL_SWEEP"
RESULTS, LOCKS, BASELINES = ".results", ".locks", "baselines"
# Numbers that depend on the conditions of the measurement.
SPEEDS = keys_of("speed", (*METRICS, *GENERATE_METRICS))
# The objective of an optimising sweeper for commands without a key for it.
OBJECTIVES = {"generate": "seconds_per_image"}


def run_job(
    function: Callable[[Settings], float | None],
    read: Callable[[], Settings],
    finished_file: str,
    sentence: Callable[[Exception], str | None],
) -> float:
    """Make a run of a sweep, unless it is finished or another sweep is making it.

    Errors are recorded and not raised.

    Args:
        function: the command.
        read: returns the settings of the run.
        finished_file: a file that only the folder of a finished run contains.
        sentence: returns the message for the user, or None for a bug of the program.

    Returns:
        The objective for an optimising sweeper; NaN if the run failed or has no objective.
    """
    job = HydraConfig.get().job
    sweep_dir = Path(HydraConfig.get().sweep.dir).absolute()
    result = RunResult(job.num, tuple(HydraConfig.get().overrides.task), FAILED, finished_file)
    objective = ""
    print(f"run {job.num}: {' '.join(result.overrides)}", flush=True)
    try:
        settings = read()
        objective = OBJECTIVES.get(settings.command) or settings.evaluate.objective
        settings, identity = name_run(settings, sweep_dir)
        result = replace(result, folder=settings.output_dir)
        result = _make_run(function, settings, identity, result)
    except (KeyboardInterrupt, SystemExit):
        print(
            f"stopped in run {job.num}; to continue, repeat the command with hydra.sweep.dir={sweep_dir}.",
            file=sys.stderr,
        )
        raise
    except Exception as error:
        reason = sentence(error)
        result = replace(result, reason=reason or f"{type(error).__name__}: {error}")
        print(f"error: run {job.num}: {result.reason}", file=sys.stderr)
        if reason is None:
            _keep_traceback(result)
    result.write(results_dir(sweep_dir))
    _free_memory()
    return float(result.metrics.get(objective, math.nan))


def results_dir(sweep_dir: Path) -> Path:
    """Folder with the results of this sweep's runs."""
    return sweep_dir / RESULTS / os.environ.get(SWEEP_VARIABLE, "sweep")


def name_run(settings: Settings, sweep_dir: Path) -> tuple[Settings, Identity]:
    """The settings of a run with its folder inside the sweep's folder, and its identity.

    The folder is named by the images, and for an evaluation also by the measurement conditions.
    """
    if not is_default_run_dir(settings.output_dir, sweep_dir):
        raise ConfigError(
            f"output_dir={settings.output_dir} is a single folder, but a sweep (-m) needs one per run; "
            "set hydra.sweep.dir to the folder that contains them."
        )
    identity = Identity.of(settings)
    measures = settings.command == "evaluate"
    name = identity.measurement_hash if measures else identity.evaluation_hash
    folder = sweep_dir / f"{settings.model.name}-{name}"
    settings = settings.with_(output_dir=str(folder), generate={"resume": True}, evaluate={"resume": True})
    if measures and settings.evaluate.baseline_dir is None:
        settings = settings.with_(evaluate={"baseline_dir": str(sweep_dir / BASELINES)})
    return settings, identity


def is_default_run_dir(output_dir: str, sweep_dir: Path) -> bool:
    """Whether a run folder is Hydra's default for a job of the sweep, and not chosen by the user."""
    return Path(output_dir).absolute() == sweep_dir / str(HydraConfig.get().sweep.subdir)


def wait_until_free(folder: Path) -> None:
    """Wait until no process is making this run."""
    with _lock(folder):
        return


def _make_run(
    function: Callable[[Settings], float | None], settings: Settings, identity: Identity, result: RunResult
) -> RunResult:
    folder = Path(settings.output_dir)
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return replace(result, status=ELSEWHERE)
    try:
        finished = result.record is not None and not _lacks_images(settings)
        if not finished:
            share_images(folder.parent, folder, identity, settings.dataset.num_images)
            function(settings)
            _report(folder).unlink(missing_ok=True)
        return with_numbers(replace(result, status=SKIPPED if finished else DONE), identity)
    finally:
        lock.release()


def _lacks_images(settings: Settings) -> bool:
    """Whether an evaluation is to keep its images, but an earlier one of the same identity did not."""
    keeps = settings.command == "evaluate" and settings.evaluate.save_images and not settings.evaluate.images
    return keeps and not Path(settings.output_dir, IMAGES).is_dir()


def _lock(folder: Path) -> FileLock:
    """The lock of a run; the system releases it if its process is killed."""
    return FileLock(prepare_output_dir(folder.parent / LOCKS, "hydra.sweep.dir") / f"{folder.name}.lock")


def with_numbers(result: RunResult, identity: Identity | None) -> RunResult:
    """Add the numbers of the finished run to a result.

    Speeds are only added if they were measured under the same conditions.
    """
    assert result.record is not None
    record, run = read_json(result.record), read_json(result.record.with_name(RECORD_FILE))
    metrics = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    measured = environment(run)
    there = record.get("identity", {}).get("measurement")
    if identity is not None and there != identity.measurement_hash:
        metrics = {key: value for key, value in metrics.items() if key not in SPEEDS}
        return replace(result, metrics=metrics, environment=measured, other_conditions=True)
    return replace(result, metrics=metrics, environment=measured)


def _report(folder: Path) -> Path:
    """File for the traceback of a run that failed through a bug, not through its config."""
    return folder.with_name(f"{folder.name}.error.txt")


def _keep_traceback(result: RunResult) -> None:
    if result.folder is not None:
        _report(Path(result.folder)).write_text(traceback.format_exc())


def _free_memory() -> None:
    """Free the memory of this run for the next run of this process, even after an out-of-memory error."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
