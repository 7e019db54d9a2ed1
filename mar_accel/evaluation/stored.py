"""Evaluation of existing images on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.comparison import (
    Sampled,
    add_lpips,
    check_lpips,
    compare_with_folder,
    open_baseline,
)
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.result import SHOWN_IMAGES, Evaluation
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.runs.folder import IMAGES, image_indices
from mar_accel.runs.identity import Identity
from mar_accel.runs.lock import RunLock
from mar_accel.utils.progress import progress

READ_BATCH_SIZE = 256


def evaluate_images(settings: Settings, output_dir: Path, lock: RunLock) -> Evaluation:
    """Evaluate a folder, an .npz or a run: quality, and fidelity if a baseline folder is set.

    Args:
        settings: settings of the evaluation.
        output_dir: the run folder; it is created after all inputs have been found.
        lock: the lock of the run folder.

    Raises:
        ConfigError: ``output_dir`` is the folder of the images, or there are no features.
        DataError: the images are those of a run, but not all of them.
    """
    path = settings.evaluate.images
    assert path is not None
    _check_output_dir(path, output_dir)
    images, judge = open_images(path), Judge.of(settings)
    _check_complete(images)
    if judge is None:
        raise ConfigError("features=none leaves nothing to measure on evaluate.images; choose features.")
    sampled = Sampled.recorded(images) or Sampled.of(_without_weights(settings), Identity.of(settings))
    compared = images.keys[: settings.evaluate.fidelity_images]
    baseline = open_baseline(settings.evaluate, sampled, f"evaluate.images={path} with", compared)
    check_lpips(settings.evaluate)
    lock.take()
    own_metrics = OwnMetrics.of(settings, images.first(1).shape[1:])
    features = _features(images, judge, own_metrics)
    quality = measure_quality(features, judge.extractor, judge.reference)
    shown = images.first(SHOWN_IMAGES)
    numbers = quality.numbers | own_metrics.compute()
    evaluation = Evaluation(
        numbers,
        warnings=[*quality.warnings, *own_metrics.warnings],
        samples=(shown, features.labels[: len(shown)]),
    )
    _add_recorded_speed(evaluation, images)
    if baseline is not None:
        labels, tokens = features.labels[: len(compared)], images.tokens_of(compared)
        compare_with_folder(evaluation, images.at(compared), tokens, labels, compared, baseline)
    add_lpips(evaluation, settings.evaluate)
    return evaluation


def _check_output_dir(images: str, output_dir: Path) -> None:
    """Refuse to write into the folder of the images, since this would overwrite their record and config."""
    folder = output_dir.resolve()
    if Path(images).resolve() not in (folder, folder / IMAGES) and image_indices(output_dir):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of a run with its own images, and its record would be "
            "overwritten; choose another output_dir."
        )
    if Path(images).resolve() in (folder, folder / IMAGES):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of evaluate.images={images}, and its record would be "
            "overwritten; choose another output_dir."
        )


def _check_complete(images: ImageSet) -> None:
    """Raise DataError if the images of a run are not those that its record counts."""
    recorded = images.record.get("num_images")
    if recorded is None or images.path.name == IMAGES:
        return
    there = image_indices(images.path)
    if there != list(range(recorded)) or images.num_images != recorded:
        raise DataError(
            f"evaluate.images={images.path} has {images.num_images} images, but its run.json records the "
            f"images 0 to {recorded - 1}; run its command again with resume=true."
        )


def _features(images: ImageSet, judge: Judge, own_metrics: OwnMetrics) -> FeatureSet:
    parts, seen = [], 0
    total = -(-images.num_images // READ_BATCH_SIZE)
    for batch in progress(images.batches(READ_BATCH_SIZE), "features", total):
        indices = torch.arange(seen, seen + len(batch), dtype=torch.long)
        labels = images.labels[indices] if images.labels is not None else None
        parts.append(FeatureSet.of(judge.extractor(batch), indices, labels))
        own_metrics.update(batch, parts[-1].labels)
        seen += len(batch)
    return FeatureSet.join(parts)


def _add_recorded_speed(evaluation: Evaluation, images: ImageSet) -> None:
    seconds = images.record.get("seconds_per_image")
    if seconds:
        evaluation.metrics |= {"latency_s_per_image": seconds, "throughput_img_s": 1 / seconds}
        evaluation.warnings.append("the latency is from the record of the run that made the images.")


def _without_weights(settings: Settings) -> Settings:
    """The settings without weights, since the weights of images without a record are unknown."""
    return settings.with_(model={"weights": None})
