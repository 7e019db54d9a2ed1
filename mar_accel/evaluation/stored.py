"""Evaluation of images that lie on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import ConfigError
from mar_accel.evaluation.comparison import add_lpips, check_lpips, compare_with_folder, open_baseline
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.result import SHOWN_IMAGES, Evaluation
from mar_accel.evaluation.settings import EvaluationSettings
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.runs.folder import IMAGES, image_indices
from mar_accel.runs.record import prepare_output_dir
from mar_accel.utils.progress import progress

READ_BATCH_SIZE = 256


def evaluate_images(config: DictConfig, settings: EvaluationSettings, output_dir: Path) -> Evaluation:
    """Quality of a folder, an .npz or a run, and fidelity where a baseline folder was named.

    Args:
        output_dir: is made once everything that is to be read has been found.

    Raises:
        ConfigError: ``output_dir`` is where the images are.
    """
    assert settings.images is not None
    _check_output_dir(settings.images, output_dir)
    images, judge = open_images(settings.images), Judge.of(config)
    baseline = open_baseline(_config_of(images, config), settings)
    check_lpips(settings)
    prepare_output_dir(output_dir)
    features = _features(images, judge)
    quality = measure_quality(features, judge.extractor, judge.reference)
    shown = images.first(SHOWN_IMAGES)
    evaluation = Evaluation(
        quality.numbers, warnings=quality.warnings, samples=(shown, features.labels[: len(shown)])
    )
    _add_recorded_speed(evaluation, images)
    count = min(settings.fidelity_images, images.num_images)
    if baseline is not None:
        tokens = images.tokens[:count] if images.tokens is not None else None
        compare_with_folder(evaluation, images.first(count), tokens, features.labels[:count], baseline)
    add_lpips(evaluation, settings)
    return evaluation


def _check_output_dir(images: str, output_dir: Path) -> None:
    """Refuse to write into the folder of the images: their run's record and config would be lost."""
    folder = output_dir.resolve()
    if Path(images).resolve() not in (folder, folder / IMAGES) and image_indices(output_dir):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of a run with images of its own, whose record would be "
            "overwritten; choose another output_dir."
        )
    if Path(images).resolve() in (folder, folder / IMAGES):
        raise ConfigError(
            f"output_dir={output_dir} is the folder of evaluate.images={images}, whose own record would be "
            "overwritten; choose another output_dir."
        )


def _config_of(images: ImageSet, config: DictConfig) -> DictConfig:
    """What the images were sampled with: as their run recorded it, else as the command says."""
    recorded = images.record.get("config")
    return OmegaConf.create(recorded) if recorded else config


def _features(images: ImageSet, judge: Judge) -> FeatureSet:
    parts, seen = [], 0
    total = -(-images.num_images // READ_BATCH_SIZE)
    for batch in progress(images.batches(READ_BATCH_SIZE), "features", total):
        indices = torch.arange(seen, seen + len(batch))
        labels = images.labels[indices] if images.labels is not None else None
        parts.append(FeatureSet.of(judge.extractor(batch), indices, labels))
        seen += len(batch)
    return FeatureSet.join(parts)


def _add_recorded_speed(evaluation: Evaluation, images: ImageSet) -> None:
    seconds = images.record.get("seconds_per_image")
    if seconds:
        evaluation.metrics |= {"latency_s_per_image": seconds, "throughput_img_s": 1 / seconds}
        evaluation.warnings.append("the latency is the one that the run which made the images recorded.")
