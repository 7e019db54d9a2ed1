"""One evaluation from config to numbers: sample or read, compare, time, count."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from mar_accel.building import build_part
from mar_accel.callbacks.writer import ImageWriter
from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import ConfigError
from mar_accel.evaluation.collect import BatchTimer, Collector
from mar_accel.evaluation.counting import count_metrics
from mar_accel.evaluation.profile import Profiler
from mar_accel.evaluation.result import Comparison, Evaluation
from mar_accel.evaluation.sampling import (
    baseline_config,
    first_requests,
    interleaved_latencies,
    same_sampling,
    with_sampling,
)
from mar_accel.evaluation.settings import GENERATE, EvaluationSettings
from mar_accel.generate import build_module, build_requests, check_device
from mar_accel.inference import InferenceModule
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.fidelity import fidelity
from mar_accel.metrics.lpips import lpips
from mar_accel.metrics.progress import progress
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.metrics.reference import Reference, ReferenceSource
from mar_accel.metrics.speed import gemm_peak, latency_summary, speedup
from mar_accel.prediction import build_trainer

READ_BATCH_SIZE = 256
# Images of the sample grid in reports, and at most so many are compared side by side there.
SHOWN_IMAGES = 64
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


def _add_lpips(evaluation: Evaluation, settings: EvaluationSettings) -> None:
    if settings.lpips and evaluation.comparison is not None:
        distances = lpips(evaluation.comparison.images, evaluation.comparison.baseline)
        evaluation.metrics["lpips"] = float(distances.mean())


@dataclass
class Judge:
    """What images are judged with."""

    extractor: FeatureExtractor
    reference: Reference | None

    @staticmethod
    def of(config: DictConfig) -> Judge:
        """Features and reference of a config; refuses what does not exist before anything is sampled."""
        source: ReferenceSource | None = build_part(config.reference)
        if source is not None:
            source.check()
        extractor = build_part(config.features)
        return Judge(extractor, source.load(extractor) if source is not None else None)


def evaluate_images(config: DictConfig, settings: EvaluationSettings) -> Evaluation:
    """Evaluate images that lie on disk: quality, and fidelity where a baseline folder was named."""
    assert settings.images is not None
    images = open_images(settings.images)
    judge = Judge.of(config)
    parts, seen = [], 0
    total = -(-images.num_images // READ_BATCH_SIZE)
    for batch in progress(images.batches(READ_BATCH_SIZE), "features", total):
        indices = torch.arange(seen, seen + len(batch))
        labels = images.labels[indices] if images.labels is not None else None
        parts.append(FeatureSet.of(judge.extractor(batch), indices, labels))
        seen += len(batch)
    features = FeatureSet.join(parts)
    quality = measure_quality(features, judge.extractor, judge.reference)
    shown = images.first(SHOWN_IMAGES)
    evaluation = Evaluation(
        quality.numbers, warnings=quality.warnings, samples=(shown, features.labels[: len(shown)])
    )
    seconds = images.record.get("seconds_per_image")
    if seconds:
        evaluation.metrics |= {"latency_s_per_image": seconds, "throughput_img_s": 1 / seconds}
        evaluation.warnings.append(
            "the latency is that of the run that made the images, start and end included."
        )
    count = min(settings.fidelity_images, images.num_images)
    if settings.baseline_folder is not None and count:
        baseline = open_images(settings.baseline_folder, "evaluate.baseline")
        tokens = images.tokens[:count] if images.tokens is not None else None
        _compare(evaluation, images.first(count), tokens, features.labels[:count], baseline)
    _add_lpips(evaluation, settings)
    return evaluation


def evaluate_sampling(
    config: DictConfig,
    settings: EvaluationSettings,
    output_dir: Path,
    callbacks: Sequence[pl.Callback] = (),
) -> Evaluation | None:
    """Sample as the config says and evaluate the images on the way.

    Args:
        output_dir: exists; gets the images.
        callbacks: further callbacks of the sampling, such as a progress bar.

    Returns:
        The evaluation; None on every process but the first.
    """
    check_device(config.trainer.accelerator)
    if config.dataset.num_images < 2:
        raise ConfigError(
            f"dataset.num_images={config.dataset.num_images} has no statistics; evaluate at least 2 images."
        )
    requests, module = build_requests(config), build_module(config)
    baseline = baseline_config(config, settings.baseline_sampler)
    judge = Judge.of(config)
    # What cannot be had should be known before an hour of sampling.
    if settings.baseline_folder is not None:
        open_images(settings.baseline_folder, "evaluate.baseline")
    if settings.lpips:
        blank = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        lpips(blank, blank)
    count = min(settings.fidelity_images, requests.num_images)
    collector, timer = Collector(judge.extractor, max(count, SHOWN_IMAGES)), BatchTimer()
    extra: list[pl.Callback] = [timer, collector]
    if settings.save_images:
        extra.append(ImageWriter(output_dir, requests.num_images, config.dataset.num_classes))
    profiler = Profiler() if settings.profile else None
    if profiler is not None:
        extra.append(profiler)
    trainer = build_trainer(config, [*callbacks, *extra], output_dir)
    trainer.predict(module, requests, return_predictions=False)
    evaluation = Evaluation({"peak_memory_bytes": timer.peak_memory})
    _add_speed(evaluation, timer, trainer)
    if profiler is not None and profiler.profile is not None:
        evaluation.time_shares, evaluation.steps = profiler.profile.shares(), profiler.profile.steps
    _add_baseline(evaluation, config, settings, module, baseline, collector, output_dir)
    if not trainer.is_global_zero:
        return None
    assert collector.features is not None
    quality = measure_quality(collector.features, judge.extractor, judge.reference)
    evaluation.metrics |= quality.numbers
    evaluation.warnings += quality.warnings
    evaluation.samples = (collector.images[:SHOWN_IMAGES], collector.labels[:SHOWN_IMAGES])
    evaluation.tokens = collector.tokens
    _add_lpips(evaluation, settings)
    count_metrics(evaluation, module, settings.profile)
    flops, latency = evaluation.metrics["tflops_per_image"], evaluation.metrics["latency_s_per_image"]
    assert flops is not None and latency is not None
    evaluation.metrics["achieved_flops"] = flops * 1e12 / latency
    return evaluation


def _add_speed(evaluation: Evaluation, timer: BatchTimer, trainer: pl.Trainer) -> None:
    """Latency and throughput over the batches that were sampled anyway."""
    evaluation.metrics |= latency_summary(timer.warm)
    evaluation.metrics |= {
        "throughput_img_s": trainer.world_size / statistics.median(timer.warm),
        "batch_size": max(timer.batch_sizes),
        "num_devices": trainer.world_size,
    }
    dtype = _DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
    evaluation.metrics["peak_flops"] = gemm_peak(trainer.strategy.root_device, dtype)
    if len(timer.latencies) == 1:
        evaluation.warnings.append(
            "the latency is that of a single batch, start-up included; sample more batches for a warm one."
        )


def _add_baseline(
    evaluation: Evaluation,
    config: DictConfig,
    settings: EvaluationSettings,
    module: InferenceModule,
    baseline: DictConfig,
    collector: Collector,
    output_dir: Path,
) -> None:
    """Fidelity to, and speedup over, the unaccelerated sampling of the same seed."""
    count = min(settings.fidelity_images, config.dataset.num_images)
    own = collector.images[:count], collector.tokens[:count], collector.labels[:count]
    unaccelerated = same_sampling(config, baseline)
    if settings.baseline_folder is not None and count and len(collector.images):
        _compare(evaluation, *own, open_images(settings.baseline_folder, "evaluate.baseline"))
    if settings.baseline != GENERATE:
        return
    if unaccelerated:
        # Compared with itself; sampling it again would only show that it is deterministic.
        evaluation.metrics["speedup"] = 1.0
        if count and len(collector.images):
            _set_comparison(evaluation, *own, collector.images[:count], collector.tokens[:count])
        return
    other = with_sampling(module, baseline)
    if count:
        plain = Collector(None, count)
        trainer = build_trainer(config, [plain], output_dir)
        trainer.predict(other, first_requests(config, count), return_predictions=False)
        if len(collector.images):
            _set_comparison(evaluation, *own, plain.images, plain.tokens)
    if settings.timing_rounds:
        slow, fast = interleaved_latencies(config, [other, module], settings.timing_rounds, output_dir)
        names = ("speedup", "speedup_min", "speedup_max")
        evaluation.metrics |= dict(zip(names, speedup(slow, fast), strict=True))


def _compare(
    evaluation: Evaluation,
    images: torch.Tensor,
    tokens: torch.Tensor | None,
    labels: torch.Tensor,
    baseline: ImageSet,
) -> None:
    """Fidelity to the images of a folder."""
    count = min(len(images), baseline.num_images)
    reference_tokens = baseline.tokens[:count] if baseline.tokens is not None else None
    if tokens is None or reference_tokens is None or len(reference_tokens) < count:
        tokens = reference_tokens = None
    _set_comparison(
        evaluation,
        images[:count],
        None if tokens is None else tokens[:count],
        labels[:count],
        baseline.first(count),
        reference_tokens,
    )


def _set_comparison(
    evaluation: Evaluation,
    images: torch.Tensor,
    tokens: torch.Tensor | None,
    labels: torch.Tensor,
    baseline: torch.Tensor,
    baseline_tokens: torch.Tensor | None,
) -> None:
    agreement = fidelity(images, baseline, tokens, baseline_tokens)
    evaluation.comparison = Comparison(images, baseline, labels, agreement)
    evaluation.metrics |= agreement.summary()
    evaluation.metrics["fidelity_images"] = len(images)
