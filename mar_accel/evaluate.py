"""Evaluate a config: ``python -m mar_accel.evaluate sampler=gtr cache=lazymar``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.console import Console

from mar_accel.evaluation.files import write_evaluation, write_metrics
from mar_accel.evaluation.report import log_evaluation, open_evaluation_logger
from mar_accel.evaluation.result import METRICS_FILE, Evaluation, result_table
from mar_accel.evaluation.resume import keeps_images
from mar_accel.evaluation.run import evaluate_sampling
from mar_accel.evaluation.settings import EvaluationSettings
from mar_accel.evaluation.stored import evaluate_images
from mar_accel.inference.processes import is_first_process
from mar_accel.runs.entry import command
from mar_accel.runs.folder import write_config, write_run_record
from mar_accel.runs.identity import config_hash
from mar_accel.runs.record import run_record


def evaluate(config: DictConfig, callbacks: Sequence[pl.Callback] | None = None) -> Evaluation | None:
    """Evaluate as the config says and write the run folder.

    Args:
        config: composed as ``conf/evaluate.yaml``.
        callbacks: callbacks of the sampling; None: those of the config.

    Returns:
        What was found; None on every process but the first.

    Raises:
        MarAccelError: the config cannot be run; nothing has been written then.
    """
    settings = EvaluationSettings.of(config)
    output_dir = Path(config.output_dir).absolute()
    evaluation: Evaluation | None
    images_kept = keeps_images(settings, output_dir)
    # What is wrong with it is said before anything is sampled.
    logger = open_evaluation_logger(config) if is_first_process() else None
    if settings.images is not None:
        evaluation = evaluate_images(config, settings, output_dir)
    else:
        if callbacks is None:
            callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values()]
        evaluation = evaluate_sampling(config, settings, output_dir, callbacks)
    if evaluation is not None:
        _write(config, evaluation, output_dir, images_kept, logger)
    return evaluation


def _write(
    config: DictConfig, evaluation: Evaluation, output_dir: Path, images_kept: bool, logger: Logger | None
) -> None:
    name = config_hash(config)
    speed = {"seconds_per_image": evaluation.metrics.get("latency_s_per_image")}
    write_run_record(run_record(config, config_hash=name, **speed), output_dir, images_kept)
    write_config(config, output_dir)
    pictures = write_evaluation(evaluation, output_dir)
    log_evaluation(logger, config, evaluation, pictures)
    write_metrics(evaluation, output_dir, config_hash=name)


def show(evaluation: Evaluation, title: str, output_dir: Path) -> None:
    """Print the numbers, and what a reader of them has to know."""
    console = Console()
    console.print(result_table(title, evaluation))
    for warning in evaluation.warnings:
        console.print(f"note: {warning}", style="yellow", markup=False)
    console.print(f"Everything: {output_dir}", markup=False, soft_wrap=True)


@command("evaluate", finished_file=METRICS_FILE)
def main(config: DictConfig) -> None:
    evaluation = evaluate(config)
    if evaluation is not None:
        title = config.evaluate.images or f"{config.model.name}, seed {config.seed}"
        show(evaluation, str(title), Path(config.output_dir))


if __name__ == "__main__":
    main()
