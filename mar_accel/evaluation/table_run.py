"""A run of evaluate_table: evaluate each row, time all rows in turn, write tables and pictures."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from mar_accel.config.rows import Row, compose_rows, load_rows, select_rows
from mar_accel.config.settings import Settings
from mar_accel.errors import MarAccelError
from mar_accel.evaluation.correlation import write_correlation
from mar_accel.evaluation.files import num_tokens
from mar_accel.evaluation.report import log_table
from mar_accel.evaluation.result import METRICS_FILE
from mar_accel.evaluation.run import evaluate, judged_hash
from mar_accel.evaluation.table import RowResult, add_timings, write_strips, write_table
from mar_accel.evaluation.timing import time_rows
from mar_accel.runs.folder import RECORD_FILE
from mar_accel.runs.identity import Identity
from mar_accel.runs.record import prepare_output_dir, read_json, run_record, write_json


@dataclass
class TableResult:
    """Results of a table.

    Attributes:
        rows: the evaluated rows.
        failures: error of each failed row by name.
        correlation: correlation coefficients by name.
    """

    rows: list[RowResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    correlation: dict[str, float] = field(default_factory=dict)


class RowProgress(pl.Callback):
    """Advances a progress bar by the sampled images of a row."""

    def __init__(self, progress: Progress, name: str, num_images: int):
        self.progress = progress
        self.task = progress.add_task(name, total=num_images)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        indices, _ = batch
        self.progress.advance(self.task, len(indices) * trainer.world_size)


def evaluate_table(settings: Settings, overrides: Sequence[str]) -> TableResult:
    """Evaluate all rows and write the table; finished rows in the run folder are kept.

    Args:
        settings: settings of the whole table.
        overrides: overrides that apply to every row; a row's own overrides take precedence.

    Raises:
        Exception: the first row failed, which all other rows are compared with.
    """
    rows = select_rows(load_rows(settings.table.rows), settings.table.only, "table.only", keep_first=True)
    composed = compose_rows("evaluate", rows, overrides, "table")
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    result, evaluated = TableResult(), list[Settings]()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("rows", total=len(rows))
        for row, row_settings in zip(rows, composed, strict=True):
            if _try_row(row, row_settings, result, output_dir, progress):
                evaluated.append(row_settings)
            progress.advance(task)
        latencies = _timings(settings, result.rows, evaluated, output_dir, progress)
    batch_size = settings.table.timing_batch_size or settings.trainer.batch_size
    add_timings(result.rows, latencies, batch_size)
    _write(settings, result, output_dir)
    return result


def _try_row(row: Row, settings: Settings, result: TableResult, output_dir: Path, progress: Progress) -> bool:
    """Evaluate a row and add it to the result; returns whether this succeeded."""
    first = result.rows[0] if result.rows else None
    error_file = output_dir / "rows" / f"{row.name}.error.txt"
    try:
        result.rows.append(_row_result(row, settings, first, output_dir, progress))
        error_file.unlink(missing_ok=True)
        return True
    except Exception as error:
        if first is None:
            raise
        # The other rows do not depend on this one.
        result.failures[row.name] = str(error) if isinstance(error, MarAccelError) else repr(error)
        error_file.write_text(traceback.format_exc())
        return False


def _row_result(
    row: Row, settings: Settings, first: RowResult | None, output_dir: Path, progress: Progress
) -> RowResult:
    """The metrics of a row, read if it is finished, else evaluated."""
    # The folder's name does not depend on the number of images, so a larger number adds images to it.
    folder = output_dir / "rows" / f"{row.name}-{Identity.of(settings).images_hash}"
    evaluate_keys = {
        "baseline": "none" if first is None else str(first.folder),
        "save_images": True,
        "resume": True,
        # Speedups are measured later, in rounds over all rows.
        "timing_rounds": 0,
    }
    # The processes of further devices read the settings, and must have the callbacks of this one: none.
    settings = settings.with_(output_dir=str(folder), callbacks={}, evaluate=evaluate_keys)
    if not _finished(folder / METRICS_FILE, settings, first):
        logger = settings.logger
        if "tags" in logger:  # W&B
            group = logger["group"] or output_dir.name
            logger = {**logger, "name": row.name, "group": group, "tags": [*logger["tags"], *row.overrides]}
        bar = RowProgress(progress, row.name, settings.dataset.num_images)
        evaluate(settings.with_(logger=logger), [bar])
    return RowResult(row.name, folder, json.loads((folder / METRICS_FILE).read_text()))


def _finished(file: Path, settings: Settings, first: RowResult | None) -> bool:
    """Whether the row's metrics exist, with the requested baseline and number of images."""
    metrics, wanted = read_json(file), settings.evaluate
    if metrics.get("judged") != judged_hash(settings):
        return False
    if first is None:
        # The first row has no baseline. Its tokens are needed for the other rows.
        enough = num_tokens(file.parent) >= min(wanted.fidelity_images, settings.dataset.num_images)
        return enough and metrics.get("baseline") is None
    numbers = (wanted.fidelity_images, settings.dataset.num_images, first.metrics["num_images"])
    if not min(numbers):
        return True
    keys = ["latent_mse", *(["lpips"] if wanted.lpips else [])]
    return (
        metrics.get("fidelity_images") == min(numbers)
        and metrics.get("baseline") == first.metrics["identity"]["evaluation"]
        and all(metrics.get(key) is not None for key in keys)
    )


def _timings(
    settings: Settings,
    results: Sequence[RowResult],
    rows: Sequence[Settings],
    output_dir: Path,
    progress: Progress,
) -> list[list[float]]:
    """Seconds per image of each row, in interleaved rounds."""
    rounds = settings.table.timing_rounds
    task = progress.add_task("timing", total=(rounds + 1) * len(results))
    batch_size = settings.table.timing_batch_size or rows[0].trainer.batch_size
    timed = [rows[0].with_(trainer={"batch_size": batch_size}), *rows[1:]]
    names = [result.folder.name for result in results]
    return time_rows(timed, names, rounds, output_dir, on_batch=lambda: progress.advance(task))


def _write(settings: Settings, result: TableResult, output_dir: Path) -> None:
    write_table(result.rows, output_dir, _note(settings, result.rows))
    write_strips(result.rows, settings.table.strip_images, output_dir / "strips.png")
    result.correlation = write_correlation(result.rows, output_dir)
    record = run_record(settings, correlation=result.correlation, failures=result.failures)
    write_json(record, output_dir / RECORD_FILE)
    log_table(settings, result.rows, output_dir)


def _note(settings: Settings, results: Sequence[RowResult]) -> str:
    """The note below the table, which explains its numbers."""
    first, metrics, trainer = results[0].name, results[0].metrics, settings.trainer
    bias = metrics["fid_bias"]
    compared = [n for result in results if (n := result.metrics.get("fidelity_images"))]
    fidelity = (
        f"PSNR and latent MSE: {compared[-1]} images vs. the same samples of {first}. " if compared else ""
    )
    arguments = " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    return (
        f"{metrics['num_images']} images per row, seed {settings.seed}; ± is one standard error. {fidelity}"
        f"Seconds per image: median of {settings.table.timing_rounds} interleaved rounds of "
        f"{metrics['batch_size']} images per process ({trainer.accelerator}, {trainer.precision}, "
        f"devices={trainer.devices}). Speedup over {first}: median ratio of the rounds (smallest–largest). "
        "FID of a perfect generator with the same number of images: "
        f"{'–' if bias is None else format(bias, '.2f')}.{_revisions(results)}\n\n"
        f"    python -m mar_accel.evaluate_table {arguments}\n"
    )


def _revisions(results: Sequence[RowResult]) -> str:
    """A warning if rows or kept images come from different revisions of the code."""
    records = [json.loads((result.folder / RECORD_FILE).read_text()) for result in results]
    found = [
        revision
        for record in records
        for revision in (record["git_revision"], *record.get("earlier_revisions", []))
    ]
    revisions = sorted({str(revision)[:8] for revision in found})
    return f" The rows come from the revisions {', '.join(revisions)}." if len(revisions) > 1 else ""
