"""The files of a table: the rows as the collected table, strips of images, pairs, and what a logger gets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import open_images
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.errors import MarAccelError
from mar_accel.evaluation.pictures import labelled_strips
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.runs.identity import Identity
from mar_accel.runs.record import run_record
from mar_accel.runs.run_log import RunLog, may_fail
from mar_accel.runs.stored import numbers_of, read_record
from mar_accel.runs.sweep_result import RunResult
from mar_accel.runs.sweep_summary import failures
from mar_accel.sweeps.collected_table import Collected, CollectedRow
from mar_accel.sweeps.numbers import number_keys, number_over_seeds
from mar_accel.sweeps.pair_files import write_pairs
from mar_accel.sweeps.pairs import PairedRow, compare_with_baseline, with_pairs
from mar_accel.sweeps.run_folders import read_run
from mar_accel.sweeps.table_correlation import write_correlation
from mar_accel.sweeps.table_result import RowResult
from mar_accel.sweeps.tables import cells, heading, write_tables
from mar_accel.utils.images import save_png
from mar_accel.utils.json_files import write_json

TABLE_FILE, STRIPS_FILE = "table.md", "strips.png"


@dataclass
class WrittenTable:
    """What was written.

    Attributes:
        table: the rows with their numbers and differences to the first one.
        correlation: correlation coefficients by name.
    """

    table: Collected
    correlation: dict[str, float] = field(default_factory=dict)


def write_table(
    settings: Settings, lines: Sequence[RowResult], runs: Sequence[RunResult], output_dir: Path
) -> WrittenTable:
    """Write ``table.md``, ``.csv``, ``.tex``, ``strips.png``, the pairs, the correlation and ``run.json``.

    Args:
        settings: settings of the whole table.
        lines: the evaluated rows with their speeds from interleaved rounds, the first one first.
        runs: how every row ended.
        output_dir: absolute path of the table's folder.
    """
    table, pairs = row_table(lines, _notes(settings, lines, runs)), list[PairedRow]()
    # The numbers are on disk before images are read again.
    write_tables(table, output_dir, csv_records(table, lines))
    if settings.table.paired and len(lines) > 1:
        try:
            pairs, further = compare_with_baseline(table)
        except MarAccelError as error:
            further = [f"no paired differences: {error}"]
        table = with_pairs(table, pairs, further)
    write_tables(table, output_dir, csv_records(table, lines))
    if pairs:
        write_pairs(pairs, output_dir, settings.table.strip_images)
    write_strips(lines, settings.table.strip_images, output_dir / STRIPS_FILE)
    written = WrittenTable(table, write_correlation(lines, output_dir))
    names = {line.folder.name: line.name for line in reversed(lines)}
    failed = {run.row: run.reason for run in runs if run.reason is not None}
    record = run_record(settings, correlation=written.correlation, failures=failed, rows=names)
    write_json(record, output_dir / RECORD_FILE)
    with may_fail(output_dir):
        _log(settings, lines, table, output_dir)
    return written


def row_table(lines: Sequence[RowResult], notes: Sequence[str] = ()) -> Collected:
    """Evaluated rows as the collected table, compared with the first one.

    Args:
        lines: the rows, at least one, with their records in their folders.
        notes: sentences for the reader.
    """
    rows = []
    for line in lines:
        run = read_run(line.folder)
        assert run is not None, f"{line.folder} was just evaluated"
        metrics = {**run.metrics, **numbers_of(line.metrics)}
        numbers = {key: number_over_seeds(key, [metrics]) for key in number_keys([metrics])}
        known = {key: number for key, number in numbers.items() if number is not None}
        rows.append(CollectedRow({}, (replace(run, metrics=metrics),), known, label=line.name))
    keys = tuple(number_keys([row.runs[0].metrics for row in rows]))
    compared_with = (0,) * len(rows)
    return Collected((), tuple(rows), keys, compared_with, notes=tuple(notes), timed_in_turn=True)


def csv_records(table: Collected, lines: Sequence[RowResult]) -> list[dict[str, Any]]:
    """The rows of ``table.csv``: every number under its key in ``metrics.json``, and the differences.

    Metrics of the group ``metrics`` and differences have columns for error and interval, too.
    """
    further = [key for key in table.metrics if key not in METRIC_KEYS]
    records = []
    for line, row in zip(lines, table.rows, strict=True):
        record = {"name": line.name, **{key: line.metrics.get(key) for key in METRIC_KEYS}}
        for key in further:
            number = row.numbers.get(key)
            record[key] = getattr(number, "value", None)
            record |= {f"{key}_{part}": getattr(number, part, None) for part in ("error", "low", "high")}
        records.append(record)
    return records


def write_strips(lines: Sequence[RowResult], count: int, path: Path) -> None:
    """Write a picture with one strip of images per row, all with the same samples."""
    strips = []
    for line in lines:
        ratio = line.metrics.get("speedup")
        caption = line.name if ratio is None else f"{line.name}\n{ratio:.2f}×"
        strips.append((caption, open_images(line.folder).first(count)))
    save_png(labelled_strips(strips), path)


def _notes(settings: Settings, lines: Sequence[RowResult], runs: Sequence[RunResult]) -> list[str]:
    """What a reader of the table must know, and the command that makes it."""
    first, metrics, trainer = lines[0].name, lines[0].metrics, settings.trainer
    bias = metrics["fid_bias"]
    compared = [count for line in lines if (count := line.metrics.get("fidelity_images"))]
    notes = [f"{metrics['num_images']} images per row, seed {settings.seed}."]
    if compared:
        notes.append(f"PSNR and latent MSE: {compared[-1]} images vs. the same samples of {first}.")
    notes.append(
        f"Seconds per image: median of {settings.table.timing_rounds} interleaved rounds of "
        f"{metrics['batch_size']} images per process ({trainer.accelerator}, {trainer.precision}, "
        f"devices={trainer.devices}). Speedup over {first}: median ratio of the rounds, with their range."
    )
    if bias is not None:
        notes.append(f"FID of a perfect generator with the same number of images: {bias:.2f}.")
    arguments = " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    command = f"`python -m mar_accel.evaluate_table {arguments}`"
    return [*notes, *_revisions(lines), *failures(runs), command]


def _revisions(lines: Sequence[RowResult]) -> list[str]:
    """A warning if rows or kept images come from different revisions of the code."""
    records = [read_record(line.folder / RECORD_FILE) for line in lines]
    found = [
        revision
        for record in records
        for revision in (record.get("git_revision"), *(record.get("earlier_revisions") or []))
    ]
    revisions = sorted({str(revision)[:8] for revision in found})
    return [f"The rows come from the revisions {', '.join(revisions)}."] if len(revisions) > 1 else []


def _log(settings: Settings, lines: Sequence[RowResult], table: Collected, output_dir: Path) -> None:
    """Log the numbers of all rows, the table and its pictures."""
    captions = {"strips": "the same samples in every row", "correlation": "change of FID against fidelity"}
    numbers = {
        f"{line.name}/{key}": value for line in lines for key, value in numbers_of(line.metrics).items()
    }
    with RunLog.of(settings, f"table-{Identity.of(settings).evaluation_hash}") as log:
        log.numbers(numbers)
        records = csv_records(table, lines)
        log.table("rows", list(records[0]), [list(record.values()) for record in records])
        log.table("table", heading(table), [cells(table, row) for row in table.rows])
        for name, caption in captions.items():
            if (output_dir / f"{name}.png").is_file():
                log.picture(name, output_dir / f"{name}.png", caption)
