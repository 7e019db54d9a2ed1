"""Evaluate the rows of a table: ``python -m mar_accel.evaluate_table table.rows=FILE``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from mar_accel.cli import command
from mar_accel.configuration import compose_config
from mar_accel.errors import ConfigError
from mar_accel.evaluate import evaluate
from mar_accel.evaluation.logging import log_table
from mar_accel.evaluation.rows import Row, load_rows, merge_overrides
from mar_accel.evaluation.sampling import interleaved_latencies, with_sampling
from mar_accel.evaluation.settings import config_hash
from mar_accel.evaluation.table import (
    RowResult,
    add_timings,
    table_cells,
    write_correlation,
    write_strips,
    write_table,
)
from mar_accel.generate import build_module
from mar_accel.run_record import prepare_output_dir, run_record, write_json

# Keys that belong to the table as a whole.
TABLE_KEYS = ("table.", "output_dir", "hydra.")


class RowProgress(pl.Callback):
    """Moves a bar on by the images of the row that is being sampled."""

    def __init__(self, progress: Progress, name: str, num_images: int):
        self.progress = progress
        self.task = progress.add_task(name, total=num_images)

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.progress.advance(self.task, len(outputs.indices) * trainer.world_size)


def evaluate_table(config: DictConfig, overrides: Sequence[str]) -> list[RowResult]:
    """Evaluate all rows; those that are finished in ``output_dir`` are kept.

    Args:
        config: composed as ``conf/evaluate_table.yaml``.
        overrides: overrides that hold for every row; a row's own win.
    """
    rows = load_rows(config.table.rows)
    shared = [override for override in overrides if not override.lstrip("+~").startswith(TABLE_KEYS)]
    # All rows are composed before the first is sampled: nobody should wait hours to learn of a typo.
    configs = [compose_config("evaluate_table", merge_overrides(shared, row.overrides)) for row in rows]
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    results: list[RowResult] = []
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not _is_first_process()) as progress:
        task = progress.add_task("rows", total=len(rows))
        for row, row_config in zip(rows, configs, strict=True):
            results.append(
                _row_result(row, row_config, results[0] if results else None, output_dir, progress)
            )
            progress.advance(task)
        add_timings(results, _timings(results, configs, config.table.timing_rounds, output_dir, progress))
    return results


def _row_result(
    row: Row, config: DictConfig, first: RowResult | None, output_dir: Path, progress: Progress
) -> RowResult:
    """The metrics of a row: read where they were finished, else evaluated."""
    folder = output_dir / "rows" / f"{row.name}-{config_hash(config)}"
    file = folder / "metrics.json"
    if not _finished(file, config, first):
        config.output_dir = str(folder)
        config.evaluate.baseline = "none" if first is None else str(first.folder)
        config.evaluate.save_images = True
        # Speedups come from rounds of all rows together, afterwards.
        config.evaluate.timing_rounds = 0
        if "tags" in config.logger:  # W&B
            config.logger.name = row.name
            config.logger.group = config.logger.group or output_dir.name
            config.logger.tags = [*config.logger.tags, *row.overrides]
        evaluate(config, [RowProgress(progress, row.name, config.dataset.num_images)])
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the first process writes what all of them read
    return RowResult(row.name, folder, json.loads(file.read_text()))


def _finished(file: Path, config: DictConfig, first: RowResult | None) -> bool:
    """Whether a row's numbers are there, compared with as many images as asked for now."""
    if not file.is_file():
        return False
    compared = json.loads(file.read_text()).get("fidelity_images")
    wanted = min(config.evaluate.fidelity_images, config.dataset.num_images)
    return first is None or (compared or 0) == wanted


def _timings(
    results: Sequence[RowResult],
    configs: Sequence[DictConfig],
    rounds: int,
    output_dir: Path,
    progress: Progress,
) -> list[list[float]]:
    """Seconds per image of each row in interleaved rounds; kept, so that a table is timed once."""
    if rounds < 1:
        raise ConfigError(f"table.timing_rounds={rounds} is too small; give at least 1.")
    key = {
        "rows": [result.folder.name for result in results],
        "rounds": rounds,
        "batch_size": configs[0].trainer.batch_size,
    }
    file = output_dir / "timing.json"
    if file.is_file():
        kept = json.loads(file.read_text())
        if kept["key"] == key:
            return kept["latencies"]
    task = progress.add_task("timing", total=(rounds + 1) * len(results))
    first = build_module(configs[0])
    modules = [
        with_sampling(first, config) if config.model == configs[0].model else build_module(config)
        for config in configs
    ]
    latencies = interleaved_latencies(
        configs[0], modules, rounds, output_dir, on_batch=lambda: progress.advance(task)
    )
    if _is_first_process():
        write_json({"key": key, "latencies": latencies}, file)
    return latencies


def _is_first_process() -> bool:
    """Of those that Lightning started for further devices."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _note(config: DictConfig, results: Sequence[RowResult]) -> str:
    """What stands below the table: where its numbers come from."""
    first, metrics = results[0].name, results[0].metrics
    bias = metrics["fid_bias"]
    arguments = " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    return (
        f"{metrics['num_images']} images per row, seed {config.seed}; ± is one standard error. PSNR and "
        f"latent MSE: {results[-1].metrics.get('fidelity_images')} images, to the same samples of {first}. "
        f"Seconds per image: median of {config.table.timing_rounds} interleaved rounds of "
        f"{config.trainer.batch_size} images ({config.trainer.accelerator}, {config.trainer.precision}); "
        f"speedup: median ratio to {first} (smallest–largest). "
        f"FID of a perfect generator with so many images: {'–' if bias is None else format(bias, '.2f')}.\n\n"
        f"    python -m mar_accel.evaluate_table {arguments}\n"
    )


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
    results = evaluate_table(config, HydraConfig.get().overrides.task)
    if not _is_first_process():
        return
    output_dir = Path(config.output_dir).absolute()
    write_table(results, output_dir, _note(config, results))
    write_strips(results, config.table.strip_images, output_dir / "strips.png")
    coefficients = write_correlation(results, output_dir)
    write_json(run_record(config, correlation=coefficients), output_dir / "run.json")
    log_table(config, results, output_dir)
    _show(results, coefficients, output_dir)


if __name__ == "__main__":
    main()
