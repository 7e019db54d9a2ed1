"""A run of evaluate_table: rows made as the runs of a sweep are, then timed in turn, and shown together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from mar_accel.config.messages import sentence_for
from mar_accel.config.settings import Settings
from mar_accel.data.run_files import METRICS_FILE
from mar_accel.errors import ExitCode, MarAccelError
from mar_accel.evaluation.run import check_evaluation
from mar_accel.runs.attempt import LOCKS, attempt, wait_until_free
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.runs.sweep_result import ELSEWHERE, FAILED, RunResult
from mar_accel.runs.sweep_summary import failures, print_endings
from mar_accel.sweeps.collected_table import Collected
from mar_accel.sweeps.run_folders import ROWS
from mar_accel.sweeps.table_files import TABLE_FILE, write_table
from mar_accel.sweeps.table_result import RowResult, add_timings
from mar_accel.sweeps.table_rows import RowWork, TableRow, plan_rows
from mar_accel.sweeps.table_timing import time_rows
from mar_accel.sweeps.tables import cells, heading, notes
from mar_accel.utils.progress import Bars
from mar_accel.utils.terminal import print_table


class TableError(MarAccelError):
    """The first row of a table could not be evaluated, which the others are compared with."""


@dataclass
class TableResult:
    """Results of a table.

    Attributes:
        runs: how every row ended, in the order of the file.
        rows: the lines of the table; equal rows have a line each.
        table: the rows with their numbers and differences to the first one.
        correlation: correlation coefficients by name.
    """

    runs: list[RunResult]
    rows: list[RowResult]
    table: Collected
    correlation: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, str]:
        """Why rows failed, by name."""
        return {run.row: str(run.reason) for run in self.runs if run.status == FAILED}


def evaluate_table(settings: Settings, overrides: Sequence[str]) -> TableResult:
    """Evaluate all rows and write the table; finished rows in the run folder are kept.

    Args:
        settings: settings of the whole table.
        overrides: overrides that apply to every row; a row's own overrides take precedence.

    Raises:
        ConfigError: a row cannot be composed, or the first one is refused. Nothing is written then.
        TableError: the first row failed, which all other rows are compared with.
    """
    rows, names = plan_rows(settings, overrides)
    # The others are compared with the first row, which also has what is shared by all.
    check_evaluation(rows[0].settings)
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    with Bars("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bars:
        runs = _make_rows(rows, output_dir, bars)
        made = [(row, run) for row, run in zip(rows, runs, strict=True) if run.status != FAILED]
        # A second process with the same table takes over what this one has measured.
        with FileLock(prepare_output_dir(output_dir / ROWS / LOCKS) / "table.lock"):
            rounds = settings.table.timing_rounds
            timing = bars.add("timing", (rounds + 1) * len(made), "batches")
            batch_size = settings.table.timing_batch_size or rows[0].settings.trainer.batch_size
            timed = [row.settings for row, _ in made]
            timed[0] = timed[0].with_(trainer={"batch_size": batch_size})
            folders = [Path(str(run.folder)) for _, run in made]
            latencies = time_rows(
                timed,
                [folder.name for folder in folders],
                rounds,
                output_dir,
                on_batch=timing.advance,
            )
            results = [_result(row, run) for row, run in made]
            add_timings(results, latencies, batch_size)
            lines = _lines([row for row, _ in made], results, names)
            written = write_table(settings, lines, runs, output_dir)
    return TableResult(runs, lines, written.table, written.correlation)


def _make_rows(rows: Sequence[TableRow], output_dir: Path, bars: Bars) -> list[RunResult]:
    """Make every row; one that another process is making is waited for at the end."""
    made = bars.add(ROWS, len(rows), ROWS)
    first: RowResult | None = None
    runs = list[RunResult]()
    for number, row in enumerate(rows):
        runs.append(_make_row(number, row, output_dir, first, bars, wait=first is None))
        if first is None:
            if runs[0].status == FAILED:
                raise TableError(f"{row.names[0]}, the first row, has failed: {runs[0].reason}")
            first = _result(row, runs[0])
        made.advance()
    for number, row in enumerate(rows):
        if runs[number].status == ELSEWHERE:
            runs[number] = _make_row(number, row, output_dir, first, bars, wait=True)
    return runs


def _make_row(
    number: int, row: TableRow, output_dir: Path, first: RowResult | None, bars: Bars, wait: bool
) -> RunResult:
    """How a row ended; with ``wait``, it is made here if the process that was making it has not finished."""
    work = RowWork(row, output_dir, first, bars)
    blank = RunResult(number, row.run.overrides, FAILED, METRICS_FILE, row=row.names[0])
    blank = replace(blank, left_out=row.run.left_out, equal=row.run.equal)
    while True:
        result = attempt(work, blank, lambda error: sentence_for(error, "evaluate"))
        if result.status != ELSEWHERE or not wait:
            return result
        wait_until_free(Path(str(result.folder)))


def _result(row: TableRow, run: RunResult) -> RowResult:
    folder = Path(str(run.folder))
    return RowResult(row.names[0], folder, json.loads((folder / METRICS_FILE).read_text()))


def _lines(rows: Sequence[TableRow], results: Sequence[RowResult], names: Sequence[str]) -> list[RowResult]:
    """The lines of the table in the order of the file: one for each name of a row."""
    of_name = {
        name: RowResult(name, result.folder, result.metrics)
        for row, result in zip(rows, results, strict=True)
        for name in row.names
    }
    return [of_name[name] for name in names if name in of_name]


def show_table(result: TableResult, output_dir: str) -> None:
    """Print the table and how its rows ended; exits with status 2 if rows failed."""
    print_table(heading(result.table), [cells(result.table, row) for row in result.table.rows])
    for name, value in result.correlation.items():
        print(f"{name} with the change of FID: {value:.2f}")
    folder = Path(output_dir)
    # The reasons of failed rows and the command stand in the file too.
    known = {*failures(result.runs)}
    shown = [note for note in notes(result.table) if note not in known and not note.startswith("`")]
    print_endings(result.runs, shown, folder / TABLE_FILE, folder)
    if result.failures:
        raise SystemExit(int(ExitCode.REFUSED))
