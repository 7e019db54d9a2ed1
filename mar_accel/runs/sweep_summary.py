"""Summary at the end of a sweep: the status and the numbers of each run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from mar_accel.config.overrides import key_of, value_of
from mar_accel.metrics.catalogue import OF_A_RUN
from mar_accel.runs.attempt import SPEEDS, wait_until_free, with_numbers
from mar_accel.runs.identity import digest
from mar_accel.runs.record import environment
from mar_accel.runs.sweep_job import SWEEP_VARIABLE, results_dir
from mar_accel.runs.sweep_result import DONE, ELSEWHERE, FAILED, SKIPPED, RunResult, read_results
from mar_accel.utils.json_files import write_json
from mar_accel.utils.terminal import print_table
from mar_accel.utils.whole_files import written_whole

# The table of the last sweep, and the folder with a table of every sweep.
SUMMARY_FILE, TABLES = "sweep.csv", "tables"
# Numbers in the table on the terminal; the file contains all numbers.
_SHOWN = {metric.key: metric for metric in OF_A_RUN if metric.in_sweep}
_SOME_FAILED, _FAULT = 2, 1


class SweepSummary(Callback):
    """Prints the table of a sweep and writes it; exits with status 2 if runs failed.

    Every sweep has a table of its own, ``tables/NAME.csv``. That of the last sweep is ``sweep.csv``, too.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Give the sweep a name, which every launcher passes to its jobs."""
        # Begins with letters, as Hydra would read digits such as 12e456 as a number, which is another name.
        name = f"sweep{uuid.uuid4().hex[:12]}"
        with open_dict(config):
            config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{SWEEP_VARIABLE}={name}")
        os.environ[SWEEP_VARIABLE] = name

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self._end(
                Path(config.hydra.sweep.dir).absolute(), table_name(config), config.hydra.overrides.task
            )
        except Exception:
            # Hydra would only warn, and the command would seem to have succeeded.
            traceback.print_exc()
            raise SystemExit(_FAULT) from None

    def _end(self, sweep_dir: Path, name: str, overrides: Sequence[str]) -> None:
        folder = results_dir(sweep_dir)
        os.environ.pop(SWEEP_VARIABLE, None)
        results = [_waited_for(result) for result in read_results(folder)]
        if not results:
            print(f"error: no run of the sweep has left a result in {folder}.", file=sys.stderr)
            raise SystemExit(_SOME_FAILED)
        tables = sweep_dir / TABLES
        tables.mkdir(exist_ok=True)
        for file in (sweep_dir / SUMMARY_FILE, tables / f"{name}.csv"):
            write_summary(results, file)
        record = {"overrides": list(overrides), "runs": [asdict(result) for result in results]}
        write_json(record, tables / f"{name}.json")
        # Only now, as nothing else says how the runs have ended.
        shutil.rmtree(folder, ignore_errors=True)
        _show(results, sweep_dir, tables / f"{name}.csv")
        if any(result.status == FAILED for result in results):
            raise SystemExit(_SOME_FAILED)


def table_name(config: Any) -> str:
    """Name of a sweep's table: as given, else a hash of its overrides."""
    given = (config.get("sweep") or {}).get("name")
    overrides = [text for text in config.hydra.overrides.task if not text.startswith("sweep.name=")]
    return str(given) if given is not None else digest(sorted(overrides))


def _waited_for(result: RunResult) -> RunResult:
    """The result of a run that another sweep was making, after waiting for it."""
    if result.status != ELSEWHERE or result.folder is None:
        return result
    wait_until_free(Path(result.folder))
    if result.record is not None:
        return with_numbers(result, identity=None)
    reason = "another sweep was making this run and did not finish it; run the command again."
    return replace(result, status=FAILED, reason=reason)


def typed_values(results: Sequence[RunResult]) -> dict[str, list[str]]:
    """Keys whose values differ between runs, with the value of each run; empty if a run has none."""
    values = [
        {**({"row": result.row} if result.row else {}), **{key_of(o): value_of(o) for o in result.overrides}}
        for result in results
    ]
    keys = dict.fromkeys(key for run in values for key in run)
    columns = {key: [run.get(key, "") for run in values] for key in keys}
    return {key: column for key, column in columns.items() if len(set(column)) > 1}


def write_summary(results: Sequence[RunResult], file: Path) -> None:
    """Write a CSV file with the swept values and the numbers of every run."""
    swept = typed_values(results)
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


def _show(results: Sequence[RunResult], sweep_dir: Path, file: Path) -> None:
    now = environment()
    shown = [name for name in _SHOWN if any(result.metrics.get(name) is not None for result in results)]
    swept = typed_values(results)
    rows = []
    for row, result in enumerate(results):
        numbers = [_SHOWN[name].cell(result.metrics) for name in shown]
        if result.environment and result.environment != now:
            cells = zip(shown, numbers, strict=True)
            numbers = [f"{number}*" if name in SPEEDS else number for name, number in cells]
        folder = Path(result.folder).name if result.folder else "–"
        values = [column[row] or "–" for column in swept.values()]
        rows.append([str(result.number), *values, result.status, *numbers, folder])
    print_table(["run", *swept, "status", *(_SHOWN[name].column for name in shown), "folder"], rows)
    print_endings(results, _notes(results), file, sweep_dir)


def print_endings(results: Sequence[RunResult], notes: Sequence[str], file: Path, folder: Path) -> None:
    """Print what stands below a table of runs: failures, notes, its file, and how many runs ended how."""
    for line in failures(results):
        print(line)
    for note in (*planning_notes(results), *notes):
        print(f"note: {note}")
    counts = [
        f"{sum(result.status == status for result in results)} {status}"
        for status in (DONE, SKIPPED, ELSEWHERE, FAILED)
        if any(result.status == status for result in results)
    ]
    print(f"Table: {file}")
    print(f"{', '.join(counts)}: {folder}")


def failures(results: Sequence[RunResult]) -> list[str]:
    """A line for each reason for which runs failed."""
    lines = []
    for reason in dict.fromkeys(result.reason for result in results if result.status == FAILED):
        runs = [result.title.removeprefix("run ") for result in results if result.reason == reason]
        lines.append(f"run {', '.join(runs)} failed: {reason}")
    return lines


def planning_notes(results: Sequence[RunResult]) -> list[str]:
    """Notes about combinations that are one run, and about keys that a combination does not have."""
    notes = []
    for result in results:
        for other in result.equal:
            own = [text for text in other if text not in result.overrides and text not in result.left_out]
            notes.append(
                f"run {result.number} is also {' '.join(own) or 'listed again'}: equal runs are run once."
            )
    for keys in dict.fromkeys(tuple(map(key_of, r.left_out)) for r in results if r.left_out):
        runs = ", ".join(str(r.number) for r in results if tuple(map(key_of, r.left_out)) == keys)
        notes.append(f"run {runs} does not have {', '.join(keys)}, which is left out there.")
    return notes


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
