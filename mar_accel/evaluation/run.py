"""One evaluation: from settings to a complete run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl

from mar_accel.config.settings import Settings
from mar_accel.data.run_files import METRICS_FILE
from mar_accel.errors import ConfigError
from mar_accel.evaluation.files import write_evaluation, write_metrics
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.logged import log_evaluation
from mar_accel.evaluation.result import Evaluation
from mar_accel.evaluation.sampled import evaluate_sampling
from mar_accel.evaluation.stored import evaluate_images
from mar_accel.evaluation.unaccelerated import unaccelerated
from mar_accel.inference.build import build_sampling
from mar_accel.inference.session import check_device
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.runs.folder import images_of, write_config, write_run_record
from mar_accel.runs.generation import build_callbacks
from mar_accel.runs.identity import Identity
from mar_accel.runs.lock import RunLock
from mar_accel.runs.output_dir import require_folder
from mar_accel.runs.record import run_record
from mar_accel.runs.run_log import RunLog
from mar_accel.utils.ranks import is_first_process


def judged_hash(settings: Settings) -> str:
    """Hash of the images, features and reference, independent of the unaccelerated baseline."""
    neutral = {"baseline": "none", "baseline_sampler": {}, "fidelity_images": 0, "lpips": False}
    return Identity.of(settings.with_(evaluate=neutral)).evaluation_hash


def check_objective(objective: str, own: Sequence[str]) -> None:
    """Refuse an objective that no evaluation can have.

    Args:
        objective: name of a metric. An own metric that computes a dict has one value ``NAME_KEY`` per key.
        own: names in the group ``metrics``.

    Raises:
        ConfigError: neither a built-in metric nor one of ``own``.
    """
    known = (*METRIC_KEYS, *own)
    if objective not in known and not objective.startswith(tuple(f"{name}_" for name in own)):
        raise ConfigError(
            f"evaluate.objective={objective} is not a metric; choose one of {', '.join(known)}."
        )


def check_evaluation(settings: Settings) -> None:
    """Refuse settings that no evaluation can have, without weights and before anything is written.

    Raises:
        MarAccelError: the objective, the device, the sampler, the cache, the features or the reference.
    """
    for objective in settings.evaluate.objectives:
        check_objective(objective, list(settings.metrics))
    check_device(settings.trainer.accelerator)
    if settings.evaluate.images is None:
        if settings.dataset.num_images < 2:
            raise ConfigError("dataset.num_images must be ≥ 2 for statistics, got 1.")
        build_sampling(settings)
        unaccelerated(settings)
    Judge.check(settings)
    require_folder(Path(settings.output_dir).absolute())


def evaluate(settings: Settings, callbacks: Sequence[pl.Callback] | None = None) -> Evaluation | None:
    """Evaluate a config and write the run folder.

    Args:
        settings: settings of the evaluation.
        callbacks: callbacks during sampling. None: those of the config.

    Returns:
        The results on the first process; None on all others.

    Raises:
        MarAccelError: the config cannot be run. Nothing is written in this case.
        IncompleteError: samples are not finite or images are missing. There is no record in this case.
    """
    for objective in settings.evaluate.objectives:
        check_objective(objective, list(settings.metrics))
    output_dir = Path(settings.output_dir).absolute()
    identity = Identity.of(settings)
    images = images_of(settings, output_dir)
    images_kept = settings.evaluate.resume and images.exist()
    # The logger is opened before sampling, so that its errors come early. Equal evaluations share a log.
    log = RunLog.of(settings, identity.measurement_hash) if is_first_process() else RunLog(None, settings)
    with RunLock(output_dir) as lock, log:
        if settings.evaluate.images is not None:
            evaluation: Evaluation | None = evaluate_images(settings, output_dir, lock)
        else:
            shown = build_callbacks(settings) if callbacks is None else callbacks
            evaluation = evaluate_sampling(settings, identity, output_dir, lock, log, shown)
        if evaluation is None:
            return None
        _write(settings, identity, evaluation, output_dir, log, images_kept)
        images.tidy()
    return evaluation


def _write(
    settings: Settings,
    identity: Identity,
    evaluation: Evaluation,
    output_dir: Path,
    log: RunLog,
    images_kept: bool,
) -> None:
    """Write the run folder, metrics.json last, since it marks a finished run; then tell the logger."""
    (output_dir / METRICS_FILE).unlink(missing_ok=True)
    results = {
        "num_images": evaluation.metrics.get("num_images"),
        "weights_entry": evaluation.weights_entry,
        "batch_size": evaluation.metrics.get("batch_size"),
        "seconds_per_image": evaluation.metrics.get("latency_s_per_image"),
    }
    record = run_record(settings, identity=identity.record(), **results)
    write_run_record(record, output_dir, images_kept)
    write_config(settings, output_dir)
    pictures = write_evaluation(evaluation, output_dir, settings.dataset)
    write_metrics(evaluation, output_dir, identity=identity.record(), judged=judged_hash(settings))
    log_evaluation(log, settings, identity.evaluation_hash, evaluation, pictures)
