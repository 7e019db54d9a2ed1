"""Log an evaluation: config, numbers, curves over the AR steps, pictures and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from mar_accel.config.settings import Settings
from mar_accel.evaluation.result import Evaluation
from mar_accel.evaluation.table import RowResult, markdown_table
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.runs.identity import Identity
from mar_accel.runs.loggers import log_config, log_results, open_logger, run_tags

# First columns of the table that compares runs; the metrics follow.
RUN_COLUMNS = ("evaluation", "name", "model", "seed")
LOGGED_SAMPLES = 32


def log_evaluation(
    logger: Logger | None,
    settings: Settings,
    name: str,
    evaluation: Evaluation,
    pictures: dict[str, tuple[Path, str]],
) -> None:
    """Log one evaluation as one run.

    Args:
        logger: the logger. None: nothing is logged.
        settings: settings of the run.
        name: hash of the evaluation.
        evaluation: the evaluation to log.
        pictures: file and caption by name, from :func:`mar_accel.evaluation.files.write_evaluation`.
    """
    if logger is None:
        return
    log_config(logger, settings)
    log_ar_steps(logger, evaluation.steps)
    numbers = {key: value for key, value in evaluation.metrics.items() if value is not None}
    numbers |= {f"time_share/{part}": share for part, share in evaluation.time_shares.items()}
    title = settings.logger.get("name") or " ".join(run_tags(settings))
    row = [name, title, settings.model.name, settings.seed]
    row += [evaluation.metrics.get(key) for key in METRIC_KEYS]
    _log_rows(logger, "runs", [*RUN_COLUMNS, *METRIC_KEYS], [row])
    if isinstance(logger, WandbLogger):
        _log_samples(logger, evaluation)
        pictures = {key: value for key, value in pictures.items() if key != "samples"}
    log_results(logger, numbers, pictures)


def log_ar_steps(logger: Logger, steps: Sequence[dict[str, float]]) -> None:
    """Log curves over the AR steps: tokens, T, guidance, seconds, FLOPs and the share saved by the cache."""
    for record in steps:
        curves = {f"ar_step/{key}": value for key, value in record.items() if key != "index"}
        logger.log_metrics(curves, step=int(record["index"]))


def log_table(settings: Settings, results: Sequence[RowResult], output_dir: Path) -> None:
    """Log a table of rows and its pictures."""
    logger = open_logger(settings, f"table-{Identity.of(settings).evaluation_hash}")
    if logger is None:
        return
    log_config(logger, settings)
    rows = [[r.name, *(r.metrics.get(key) for key in METRIC_KEYS)] for r in results]
    _log_rows(logger, "rows", ["name", *METRIC_KEYS], rows)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text("table", markdown_table(results))
    captions = {"strips": "the same samples in every row", "correlation": "change of FID against fidelity"}
    pictures = {
        name: (output_dir / f"{name}.png", caption)
        for name, caption in captions.items()
        if (output_dir / f"{name}.png").is_file()
    }
    numbers = {
        f"{result.name}/{key}": result.metrics[key]
        for result in results
        for key in METRIC_KEYS
        if result.metrics.get(key) is not None
    }
    log_results(logger, numbers, pictures)


def _log_rows(logger: Logger, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Log a table to W&B, or as text to TensorBoard; other loggers get nothing.

    W&B joins tables of the same name over all runs.
    """
    if isinstance(logger, WandbLogger):
        logger.log_table(key=name, columns=columns, data=rows)
    elif isinstance(logger, TensorBoardLogger):
        lines = [columns, ["---"] * len(columns), *rows]
        logger.experiment.add_text(name, "\n".join("|" + "|".join(map(str, line)) + "|" for line in lines))


def _log_samples(logger: WandbLogger, evaluation: Evaluation) -> None:
    """Log the first samples, each with its index and class."""
    if evaluation.samples is None:
        return
    images, labels = (values[:LOGGED_SAMPLES] for values in evaluation.samples)
    pixels: list[Any] = [image.permute(1, 2, 0).squeeze(2).numpy() for image in images]
    captions = [
        f"sample {index}" + (f", class {label}" if label >= 0 else "")
        for index, label in enumerate(labels.tolist())
    ]
    logger.log_image(key="samples", images=pixels, caption=captions)
