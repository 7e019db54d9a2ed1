"""One of many runs: made only once and by one process at a time; if it fails, the others go on."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock, Timeout

from mar_accel.config.settings import Settings
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.data.run_images import PngImages
from mar_accel.metrics.catalogue import GENERATE_METRICS, METRICS, keys_of
from mar_accel.runs.folder import share_images
from mar_accel.runs.identity import Identity
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.runs.record import environment
from mar_accel.runs.stored import numbers_of, read_record
from mar_accel.runs.sweep_result import DONE, ELSEWHERE, FAILED, SKIPPED, RunResult
from mar_accel.utils.json_files import read_json

LOCKS = ".locks"
# Numbers that depend on the conditions of the measurement.
SPEEDS = keys_of("speed", (*METRICS, *GENERATE_METRICS))


class Work(Protocol):
    """What one of many runs is: a run of a sweep, or a row of a table.

    Attributes:
        again: how to continue after a stop, such as "repeat the command with output_dir=FOLDER".
        times_itself: whether its speed is what the run itself measured. It is then left out where the run
            was measured under other conditions than those asked for.
    """

    again: str
    times_itself: bool

    def named(self) -> tuple[Settings, Identity]:
        """Its settings, with the run folder that belongs to it, and its identity; may raise any error."""

    def is_finished(self, settings: Settings) -> bool:
        """Whether a finished run in the folder has everything that is asked for."""

    def make(self, settings: Settings) -> object:
        """Make it."""


def attempt(work: Work, result: RunResult, sentence: Callable[[Exception], str | None]) -> RunResult:
    """Make one of many runs, unless it is finished or another process is making it.

    Errors are recorded and not raised. Ctrl-C and SIGTERM stop everything.

    Args:
        work: the run.
        result: its number and overrides; how it ended is added.
        sentence: returns the message for the user, or None for a bug of the program.
    """
    print(f"{result.title}: {' '.join(result.overrides)}".rstrip(": "), flush=True)
    try:
        settings, identity = work.named()
        result = replace(result, folder=settings.output_dir)
        result = _make(work, settings, identity, result)
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped in {result.title}; to continue, {work.again}.", file=sys.stderr)
        raise
    except Exception as error:
        reason = sentence(error)
        result = replace(result, status=FAILED, reason=reason or f"{type(error).__name__}: {error}")
        print(f"error: {result.title}: {result.reason}", file=sys.stderr)
        if reason is None:
            _keep_traceback(result)
    _free_memory()
    return result


def wait_until_free(folder: Path) -> None:
    """Wait until no process is making this run."""
    with _lock(folder):
        return


def with_numbers(result: RunResult, identity: Identity | None) -> RunResult:
    """Add the numbers of the finished run to a result.

    Args:
        result: the result of a finished run.
        identity: speeds are only added if they were measured under its conditions. None: under any.
    """
    assert result.record is not None
    record, run = read_json(result.record), read_record(result.record.with_name(RECORD_FILE))
    metrics = numbers_of(record)
    measured = environment(run)
    there = (record.get("identity") or {}).get("measurement")
    if identity is not None and there != identity.measurement_hash:
        metrics = {key: value for key, value in metrics.items() if key not in SPEEDS}
        return replace(result, metrics=metrics, environment=measured, other_conditions=True)
    return replace(result, metrics=metrics, environment=measured)


def _make(work: Work, settings: Settings, identity: Identity, result: RunResult) -> RunResult:
    folder = Path(settings.output_dir)
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return replace(result, status=ELSEWHERE)
    try:
        finished = result.record is not None and work.is_finished(settings)
        if not finished:
            if settings.image_format == PngImages.name:
                share_images(folder.parent, folder, identity, settings)
            work.make(settings)
        _report(folder).unlink(missing_ok=True)
        result = replace(result, status=SKIPPED if finished else DONE)
        return with_numbers(result, identity if work.times_itself else None)
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    """The lock of a run; the system releases it if its process is killed."""
    return FileLock(prepare_output_dir(folder.parent / LOCKS, "hydra.sweep.dir") / f"{folder.name}.lock")


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
