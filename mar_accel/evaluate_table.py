"""Evaluate the rows of a table: ``python -m mar_accel.evaluate_table table.rows=FILE``."""

from __future__ import annotations

import copy
import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from mar_accel.config.compose import compose_config
from mar_accel.config.rows import Row, choose_rows, load_rows, merge_overrides
from mar_accel.errors import ConfigError, MarAccelError
from mar_accel.evaluate import evaluate
from mar_accel.evaluation.correlation import write_correlation
from mar_accel.evaluation.files import num_tokens
from mar_accel.evaluation.report import log_table
from mar_accel.evaluation.result import METRICS_FILE
from mar_accel.evaluation.table import (
    RowResult,
    add_timings,
    table_cells,
    write_strips,
    write_table,
)
from mar_accel.evaluation.timing import TIME_ROWS, time_plan, time_rows
from mar_accel.runs.entry import command
from mar_accel.runs.folder import RECORD_FILE
from mar_accel.runs.identity import config_hash
from mar_accel.runs.record import prepare_output_dir, run_record, write_json

# Keys that belong to the table as a whole.
TABLE_KEYS = ("table.", "output_dir", "hydra.")


class TableError(MarAccelError):
    """Rows of a table could not be evaluated; the others were."""


class RowProgress(pl.Callback):
    """Moves a bar on by the images of the row that is being sampled."""

    def __init__(self, progress: Progress, name: str, num_images: int):
        self.progress = progress
        self.task = progress.add_task(name, total=num_images)

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.progress.advance(self.task, len(outputs.indices) * trainer.world_size)


def evaluate_table(config: DictConfig, overrides: Sequence[str]) -> tuple[list[RowResult], dict[str, str]]:
    """Evaluate all rows; those that are finished in ``output_dir`` are kept.

    Args:
        config: composed as ``conf/evaluate_table.yaml``.
        overrides: overrides that hold for every row; a row's own win.

    Returns:
        The rows that could be evaluated, and by name what went wrong with the others.

    Raises:
        Exception: that of the first row, which all others are compared with.
    """
    if config.table.timing_rounds < 1:
        raise ConfigError(f"table.timing_rounds={config.table.timing_rounds} is too small; give at least 1.")
    rows = choose_rows(load_rows(config.table.rows), config.table.only)
    shared = [override for override in overrides if not override.lstrip("+~").startswith(TABLE_KEYS)]
    # All rows are composed before the first is sampled: nobody should wait hours to learn of a typo.
    configs = [compose_config("evaluate", merge_overrides(shared, row.overrides)) for row in rows]
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    results: list[RowResult] = []
    evaluated: list[DictConfig] = []
    failures: dict[str, str] = {}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("rows", total=len(rows))
        for row, row_config in zip(rows, configs, strict=True):
            first = results[0] if results else None
            error_file = output_dir / "rows" / f"{row.name}.error.txt"
            try:
                results.append(_row_result(row, row_config, first, output_dir, progress))
                evaluated.append(row_config)
                error_file.unlink(missing_ok=True)
            except Exception as error:
                if first is None:
                    raise
                # The other rows stand for themselves.
                failures[row.name] = str(error) if isinstance(error, MarAccelError) else repr(error)
                error_file.write_text(traceback.format_exc())
            progress.advance(task)
        latencies = _timings(config, results, evaluated, output_dir, progress)
        add_timings(results, latencies, config.table.timing_batch_size or config.trainer.batch_size)
    return results, failures


def _row_result(
    row: Row, config: DictConfig, first: RowResult | None, output_dir: Path, progress: Progress
) -> RowResult:
    """The metrics of a row: read where they were finished, else evaluated."""
    # Whoever wants more images of the same rows gets the further ones beside those that are there.
    folder = output_dir / "rows" / f"{row.name}-{config_hash(config, any_number=True)}"
    file = folder / METRICS_FILE
    if not _finished(file, config, first):
        config.output_dir = str(folder)
        config.evaluate.baseline = "none" if first is None else str(first.folder)
        config.evaluate.save_images = config.evaluate.resume = True
        # Speedups come from rounds of all rows together, afterwards.
        config.evaluate.timing_rounds = 0
        if "tags" in config.logger:  # W&B
            config.logger.name = row.name
            config.logger.group = config.logger.group or output_dir.name
            config.logger.tags = [*config.logger.tags, *row.overrides]
        evaluate(config, [RowProgress(progress, row.name, config.dataset.num_images)])
    return RowResult(row.name, folder, json.loads(file.read_text()))


def _finished(file: Path, config: DictConfig, first: RowResult | None) -> bool:
    """Whether a row's numbers are there, compared with what and with as many images as asked for now."""
    if not file.is_file():
        return False
    metrics = json.loads(file.read_text())
    if metrics["config_hash"] != config_hash(config):
        return False
    if first is None:
        # It is compared with none, and the rows that follow are compared with its tokens, too.
        enough = num_tokens(file.parent) >= min(config.evaluate.fidelity_images, config.dataset.num_images)
        return enough and metrics.get("baseline") is None
    numbers = (config.evaluate.fidelity_images, config.dataset.num_images, first.metrics["num_images"])
    if not min(numbers):
        return True
    wanted = ["latent_mse", *(["lpips"] if config.evaluate.lpips else [])]
    return (
        metrics.get("fidelity_images") == min(numbers)
        and metrics.get("baseline") == first.metrics["config_hash"]
        and all(metrics.get(key) is not None for key in wanted)
    )


def _timings(
    config: DictConfig,
    results: Sequence[RowResult],
    configs: Sequence[DictConfig],
    output_dir: Path,
    progress: Progress,
) -> list[list[float]]:
    """Seconds per image of each row, in interleaved rounds."""
    rounds = config.table.timing_rounds
    task = progress.add_task("timing", total=(rounds + 1) * len(results))
    timed = copy.deepcopy(list(configs))
    if config.table.timing_batch_size is not None:
        timed[0].trainer.batch_size = config.table.timing_batch_size
    names = [result.folder.name for result in results]
    return time_rows(timed, names, rounds, output_dir, on_batch=lambda: progress.advance(task))


def _note(config: DictConfig, results: Sequence[RowResult]) -> str:
    """What stands below the table: where its numbers come from."""
    first, metrics, trainer = results[0].name, results[0].metrics, config.trainer
    bias = metrics["fid_bias"]
    arguments = " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    return (
        f"{metrics['num_images']} images per row, seed {config.seed}; ± is one standard error. PSNR and "
        f"latent MSE: {results[-1].metrics.get('fidelity_images')} images, to the same samples of {first}. "
        f"Seconds per image: median of {config.table.timing_rounds} interleaved rounds of "
        f"{metrics['batch_size']} images per process ({trainer.accelerator}, {trainer.precision}, "
        f"devices={trainer.devices}); "
        f"speedup: median ratio to {first} (smallest–largest). "
        f"FID of a perfect generator with so many images: {'–' if bias is None else format(bias, '.2f')}."
        f"{_revisions(results)}\n\n"
        f"    python -m mar_accel.evaluate_table {arguments}\n"
    )


def _revisions(results: Sequence[RowResult]) -> str:
    """A word of warning where rows, or images that were kept, come from another state of the code."""
    records = [json.loads((result.folder / RECORD_FILE).read_text()) for result in results]
    found = [
        revision
        for record in records
        for revision in (record["git_revision"], *record.get("earlier_revisions", []))
    ]
    revisions = sorted({str(revision)[:8] for revision in found})
    return f" The rows come from the revisions {', '.join(revisions)}." if len(revisions) > 1 else ""


def _show(results: Sequence[RowResult], coefficients: dict[str, float], output_dir: Path) -> None:
    heading, *lines = table_cells(results)
    table = Table(*heading)
    for line in lines:
        table.add_row(*line)
    console = Console()
    # A terminal that is narrower wraps the lines, which can be read; cells cut short cannot.
    console.width = max(console.width, 150)
    console.print(table)
    for name, value in coefficients.items():
        console.print(f"{name} with the change of FID: {value:.2f}")
    console.print(f"Everything: {output_dir}", markup=False, soft_wrap=True)


@command("evaluate_table")
def main(config: DictConfig) -> None:
    # Processes of further devices are given what they are to help with.
    if config.command == "evaluate":
        evaluate(config, [])
    elif config.command == TIME_ROWS:
        time_plan(config)
    else:
        _write_table(config)


def _write_table(config: DictConfig) -> None:
    results, failures = evaluate_table(config, HydraConfig.get().overrides.task)
    output_dir = Path(config.output_dir).absolute()
    write_table(results, output_dir, _note(config, results))
    write_strips(results, config.table.strip_images, output_dir / "strips.png")
    coefficients = write_correlation(results, output_dir)
    write_json(run_record(config, correlation=coefficients, failures=failures), output_dir / "run.json")
    log_table(config, results, output_dir)
    _show(results, coefficients, output_dir)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise TableError(f"{len(failures)} rows failed, the others are finished; {reasons}")


if __name__ == "__main__":
    main()
