"""Evaluation of existing images on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.data.shards import formats_in
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.baseline import Sampled, open_baseline, require_size
from mar_accel.evaluation.comparison import add_lpips, check_lpips, compare_with_folder
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.result import SHOWN_IMAGES, Evaluation
from mar_accel.inference.session import check_device
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.profiling.speed import sampling_device
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
    check_device(settings.trainer.accelerator)
    images, judge = open_images(path), Judge.of(settings, sampling_device(settings.trainer))
    images.require_complete("evaluate.images")
    if images.num_images < 2:
        raise DataError(f"evaluate.images={path} has a single image; metrics need at least 2 images.")
    if judge is None:
        raise ConfigError("features=none leaves nothing to measure on evaluate.images; choose features.")
    sampled = Sampled.recorded(images) or Sampled.of(_without_weights(settings), Identity.of(settings))
    compared = images.keys[: settings.evaluate.fidelity_images]
    baseline = open_baseline(settings.evaluate, sampled, f"evaluate.images={path} with", compared)
    check_lpips(settings.evaluate)
    shape = images.first(1).shape[1:]
    if baseline is not None:
        require_size(baseline, shape, "evaluate.images has")
    own_metrics = OwnMetrics.of(_with_recorded_prompts(settings, images), shape)
    lock.take()
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
    folder, source = output_dir.resolve(), Path(images).expanduser().resolve()
    if source != folder and folder not in source.parents and formats_in(output_dir):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of a run with its own images, and its record would be "
            "overwritten; choose another output_dir."
        )
    if source == folder or (folder in source.parents and formats_in(output_dir)):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of evaluate.images={images}, and its record would be "
            "overwritten; choose another output_dir."
        )


def _features(images: ImageSet, judge: Judge, own_metrics: OwnMetrics) -> FeatureSet:
    parts, seen = [], 0
    total = -(-images.num_images // READ_BATCH_SIZE)
    for batch in progress(images.batches(READ_BATCH_SIZE), "features", total):
        indices = torch.arange(seen, seen + len(batch), dtype=torch.long)
        labels = images.labels[indices] if images.labels is not None else None
        features = judge.extractor(batch.to(judge.extractor.device))
        parts.append(FeatureSet.of(features, indices, labels))
        own_metrics.update(batch, parts[-1].labels)
        seen += len(batch)
    return FeatureSet.join(parts)


def _add_recorded_speed(evaluation: Evaluation, images: ImageSet) -> None:
    seconds = images.record.get("seconds_per_image")
    if seconds:
        evaluation.metrics |= {"latency_s_per_image": seconds, "throughput_img_s": 1 / seconds}
        evaluation.warnings.append("the latency is from the record of the run that made the images.")


def _with_recorded_prompts(settings: Settings, images: ImageSet) -> Settings:
    """The settings with the prompts that the images of a run were made from."""
    prompts = images.record.get("config", {}).get("dataset", {}).get("prompts")
    return settings if prompts is None else settings.with_(dataset={"prompts": prompts})


def _without_weights(settings: Settings) -> Settings:
    """The settings without weights, since the weights of images without a record are unknown."""
    return settings.with_(model={"weights": None})
