"""Log an evaluation: numbers, curves over the AR steps, pictures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mar_accel.config.settings import DatasetSettings, Settings
from mar_accel.evaluation.result import Evaluation
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.runs.loggers import run_name
from mar_accel.runs.run_log import RunLog

# First columns of the table that compares runs; the metrics follow.
RUN_COLUMNS = ("evaluation", "name", "model", "seed")
LOGGED_SAMPLES = 32


def log_evaluation(
    log: RunLog, settings: Settings, name: str, evaluation: Evaluation, pictures: dict[str, tuple[Path, str]]
) -> None:
    """Log one evaluation as one run.

    Args:
        log: the run's log.
        settings: settings of the run.
        name: hash of the evaluation.
        evaluation: the evaluation to log.
        pictures: file and caption by name, from :func:`mar_accel.evaluation.files.write_evaluation`.
    """
    log.ar_steps(evaluation.steps)
    numbers = {key: value for key, value in evaluation.metrics.items() if value is not None}
    log.numbers(numbers | {f"time_share/{part}": share for part, share in evaluation.time_shares.items()})
    title = settings.logger.get("name") or run_name(settings)
    row = [name, title, settings.model.name, settings.seed]
    keys = tuple(dict.fromkeys([*METRIC_KEYS, *evaluation.metrics]))
    row += [evaluation.metrics.get(key) for key in keys]
    log.table("runs", [*RUN_COLUMNS, *keys], [row])
    if evaluation.samples is not None:
        log.images("samples", *_samples(evaluation.samples, settings.dataset))
    for key, (path, caption) in pictures.items():
        # W&B has the samples one by one, which would be under the same name.
        if not (key == "samples" and log.shows_single_images):
            log.picture(key, path, caption)


def _samples(samples: tuple[Any, Any], dataset: DatasetSettings) -> tuple[list[Any], list[str]]:
    """The first samples, each with its index, and its class or prompt."""
    images, labels = (values[:LOGGED_SAMPLES] for values in samples)
    pixels = [image.permute(1, 2, 0).squeeze(2).numpy() for image in images]
    captions = [
        f"sample {index}" + (f", {dataset.name_of(label)}" if label >= 0 else "")
        for index, label in enumerate(labels.tolist())
    ]
    return pixels, captions
