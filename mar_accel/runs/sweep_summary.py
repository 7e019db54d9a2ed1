"""Summary at the end of a sweep: the status and the numbers of each run."""

from __future__ import annotations

import csv
import json
import os
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Column, Table

from mar_accel.metrics.catalogue import GENERATE_METRICS, METRICS
from mar_accel.runs.record import environment
from mar_accel.runs.sweep_job import SPEEDS, SWEEP_VARIABLE, results_dir, wait_until_free, with_numbers
from mar_accel.runs.sweep_result import DONE, ELSEWHERE, FAILED, SKIPPED, RunResult, read_results
from mar_accel.utils.whole_files import written_whole

SUMMARY_FILE = "sweep.csv"
# Numbers in the table on the terminal; the file contains all numbers.
_SHOWN = {metric.key: metric for metric in (*METRICS, *GENERATE_METRICS) if metric.in_sweep}
_SOME_FAILED, _FAULT = 2, 1


class SweepSummary(Callback):
    """Prints the table of a sweep and writes it as ``sweep.csv``; exits with status 2 if runs failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Give the sweep a name, which every launcher passes to its jobs."""
        name = uuid.uuid4().hex[:12]
        with open_dict(config):
            config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{SWEEP_VARIABLE}={name}")
        os.environ[SWEEP_VARIABLE] = name

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self._end(Path(config.hydra.sweep.dir).absolute())
        except Exception:
            # Hydra would only warn, and the command would seem to have succeeded.
            traceback.print_exc()
            raise SystemExit(_FAULT) from None

    def _end(self, sweep_dir: Path) -> None:
        folder = results_dir(sweep_dir)
        os.environ.pop(SWEEP_VARIABLE, None)
        results = [_waited_for(result) for result in read_results(folder)]
        if not results:
            return
        _remove(folder)
        write_summary(results, sweep_dir / SUMMARY_FILE)
        _show(results, sweep_dir)
        if any(result.status == FAILED for result in results):
            raise SystemExit(_SOME_FAILED)


def _waited_for(result: RunResult) -> RunResult:
    """The result of a run that another sweep was making, after waiting for it."""
    if result.status != ELSEWHERE or result.folder is None:
        return result
    wait_until_free(Path(result.folder))
    if result.record is not None:
        return with_numbers(result, identity=None)
    reason = "another sweep was making this run and did not finish it; run the command again."
    return replace(result, status=FAILED, reason=reason)


def swept_values(results: Sequence[RunResult]) -> dict[str, list[str]]:
    """Keys whose values differ between runs, with the value of each run; empty if a run has none."""
    values = [dict(_key_and_value(override) for override in result.overrides) for result in results]
    keys = dict.fromkeys(key for run in values for key in run)
    columns = {key: [run.get(key, "") for run in values] for key in keys}
    return {key: column for key, column in columns.items() if len(set(column)) > 1}


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def write_summary(results: Sequence[RunResult], file: Path) -> None:
    """Write a CSV file with the swept values and the numbers of every run."""
    swept = swept_values(results)
    # A record repeats some keys of the config, such as the seed.
    names = [name for name in dict.fromkeys(n for r in results for n in r.metrics) if name not in swept]
    with written_whole(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", *swept, "status", "reason", "folder", "timed_with", *names])
        for row, result in enumerate(results):
            folder = Path(result.folder).name if result.folder else ""
            values = [column[row] for column in swept.values()]
            numbers = [result.metrics.get(name) for name in names]
            timed_with = "; ".join(f"{key}={value}" for key, value in result.environment.items())
            writer.writerow(
                [result.number, *values, result.status, result.reason or "", folder, timed_with, *numbers]
            )


def _show(results: Sequence[RunResult], sweep_dir: Path) -> None:
    now = environment()
    shown = [name for name in _SHOWN if any(result.metrics.get(name) is not None for result in results)]
    swept = swept_values(results)
    headings = ("run", *swept, "status", *(_SHOWN[name].column for name in shown), "folder")
    table = Table(*(Column(heading, overflow="fold") for heading in headings))
    for row, result in enumerate(results):
        numbers = [_SHOWN[name].cell(result.metrics) for name in shown]
        if result.environment and result.environment != now:
            cells = zip(shown, numbers, strict=True)
            numbers = [f"{number}*" if name in SPEEDS else number for name, number in cells]
        folder = Path(result.folder).name if result.folder else "–"
        values = [column[row] for column in swept.values()]
        table.add_row(str(result.number), *values, result.status, *numbers, folder)
    console = Console()
    # A narrower terminal wraps the lines. They stay readable, whereas truncated cells would not.
    console.width = max(console.width, 120)
    console.print(table)
    for reason in dict.fromkeys(result.reason for result in results if result.status == FAILED):
        runs = [str(result.number) for result in results if result.reason == reason]
        console.print(f"run {', '.join(runs)} failed: {reason}", markup=False, soft_wrap=True)
    for note in _notes(results):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    counts = [
        f"{sum(result.status == status for result in results)} {status}"
        for status in (DONE, SKIPPED, ELSEWHERE, FAILED)
        if any(result.status == status for result in results)
    ]
    console.print(f"{', '.join(counts)}: {sweep_dir}", markup=False, soft_wrap=True)


def _notes(results: Sequence[RunResult]) -> list[str]:
    """Notes for the reader of the table: runs made with other code or on another machine."""
    notes, now = [], environment()
    earlier = [result for result in results if result.environment and result.environment != now]
    for there in dict.fromkeys(json.dumps(result.environment) for result in earlier):
        runs = ", ".join(str(r.number) for r in earlier if json.dumps(r.environment) == there)
        differing = [
            f"{key} {json.loads(there).get(key)} (now {value})"
            for key, value in now.items()
            if json.loads(there).get(key) != value
        ]
        notes.append(f"* run {runs} was made and timed with {', '.join(differing)}.")
    left_out = ", ".join(str(result.number) for result in results if result.other_conditions)
    if left_out:
        notes.append(
            f"run {left_out} was timed under conditions other than requested; its speed is left out."
        )
    return notes


def _remove(folder: Path) -> None:
    for file in folder.glob("*.json"):
        file.unlink(missing_ok=True)
    folder.rmdir()
