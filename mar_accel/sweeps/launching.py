"""Runs of a sweep handed to a Hydra launcher, whose results are always complete afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from mar_accel.runs.gpus import GPUS_VARIABLE, visible_gpus
from mar_accel.runs.sweep_job import NUMBER_VARIABLE, results_dir
from mar_accel.runs.sweep_result import FAILED, RunResult, read_results
from mar_accel.sweeps.combinations import PlannedRun
from mar_accel.sweeps.hydra_sweep import HydraSweep

# Launchers whose processes on this machine share its GPUs. Slurm and Ray give each job its own.
_SHARE_GPUS = ("hydra_plugins.hydra_joblib_launcher.",)


def launch(runs: Mapping[int, PlannedRun], hydra: HydraSweep) -> list[RunResult]:
    """Run some runs of a sweep, and write a result for each one.

    A run that is refused, or whose process ends without a result, has failed. Ctrl-C and SIGTERM stop all.

    Args:
        runs: the runs by their number in the sweep, at least one.
        hydra: what the sweep needs of Hydra.

    Returns:
        The results in the order of the runs.
    """
    folder = results_dir(hydra.sweep_dir)
    jobs = {number: run for number, run in runs.items() if run.reason is None}
    error = ""
    # Launchers list the overrides of every job, and the jobs say theirs.
    for name in ("hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if jobs:
        # Only the number in the sweep tells jobs apart; a launcher counts the jobs that it is given.
        overrides = [
            [*run.overrides, f"+hydra.job.env_set.{NUMBER_VARIABLE}={number}"] for number, run in jobs.items()
        ]
        with _gpus_dealt(hydra):
            try:
                returned: Sequence[JobReturn] = hydra.launch(overrides, min(jobs))
                error = next((_error_of(job) for job in returned if _error_of(job)), "")
            except Exception as raised:
                # A job that is killed takes down its whole pool of processes.
                error = f"{type(raised).__name__}: {raised}"
    there = {result.number: result for result in read_results(folder)}
    for number, run in runs.items():
        reason = run.reason or f"its process ended without a result ({error or 'it was killed'})"
        result = there.get(number) or RunResult(number, run.overrides, FAILED, "", reason=reason)
        own = replace(result, row=run.row, left_out=run.left_out, equal=run.equal)
        there[number] = own
        own.write(folder)
    return [there[number] for number in runs]


def _error_of(job: Any) -> str:
    """What went wrong before a job could write its result."""
    failed = isinstance(job, JobReturn) and job.status == JobStatus.FAILED
    return f"{type(job._return_value).__name__}: {job._return_value}" if failed else ""


@contextmanager
def _gpus_dealt(hydra: HydraSweep) -> Iterator[None]:
    """Tell processes of this machine which GPUs they share."""
    before = os.environ.get(GPUS_VARIABLE)
    if hydra.launcher_name.startswith(_SHARE_GPUS) and hydra.on_gpu:
        wanted = hydra.settings.gpus
        os.environ[GPUS_VARIABLE] = ",".join(visible_gpus() if wanted is None else map(str, wanted))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(GPUS_VARIABLE, None)
        else:
            os.environ[GPUS_VARIABLE] = before
