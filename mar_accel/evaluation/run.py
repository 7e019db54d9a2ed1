"""One evaluation from config to numbers: sample, judge, compare, time, count."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from mar_accel.data.image_sets import ImageSet
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.evaluation.baseline_store import Samples, shared_samples
from mar_accel.evaluation.collect import Collected, Collector
from mar_accel.evaluation.comparison import (
    add_lpips,
    check_lpips,
    compare,
    compare_with_folder,
    open_baseline,
)
from mar_accel.evaluation.counting import count_metrics
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.measured import FLOPS, read_measured
from mar_accel.evaluation.result import METRICS_FILE, SHOWN_IMAGES, Evaluation
from mar_accel.evaluation.resume import nothing_earlier, read_earlier
from mar_accel.evaluation.sampling import baseline_config, same_sampling, with_sampling
from mar_accel.evaluation.settings import GENERATE, EvaluationSettings
from mar_accel.evaluation.token_files import TokenWriter
from mar_accel.generate import build_module, build_requests, check_device, check_num_processes
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.processes import further_processes, is_first_process
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.trainer import build_trainer
from mar_accel.inference.writer import ImageWriter
from mar_accel.metrics.quality import measure_quality
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.profiling.profile import Profiler
from mar_accel.profiling.speed import gemm_peak, latency_summary, speedup
from mar_accel.profiling.timer import BatchTimer
from mar_accel.runs.folder import CONFIG_FILE, RECORD_FILE, claim_run_folder, kept_images
from mar_accel.runs.identity import config_hash, decides_per_batch
from mar_accel.utils.progress import busy

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


@dataclass
class _Run:
    """What one evaluation works with.

    Attributes:
        num_compared: how many samples are compared with the unaccelerated ones.
        unaccelerated: config of the samples that they are compared with, where these are to be sampled.
        baseline: their folder, where they lie on disk.
        measured: what an earlier evaluation in the run folder measured while it sampled.
    """

    config: DictConfig
    settings: EvaluationSettings
    output_dir: Path
    requests: GenerationRequests
    module: InferenceModule
    judge: Judge
    num_compared: int
    unaccelerated: DictConfig | None
    baseline: ImageSet | None
    measured: Evaluation


def evaluate_sampling(
    config: DictConfig,
    settings: EvaluationSettings,
    output_dir: Path,
    callbacks: Sequence[pl.Callback] = (),
) -> Evaluation | None:
    """Sample as the config says and evaluate the images on the way.

    Args:
        output_dir: absolute path of the run folder; is made once the config is known to be sound.
        callbacks: further callbacks of the sampling, such as a progress bar.

    Returns:
        The evaluation; None on every process but the first.
    """
    run = _prepare(config, settings, output_dir)
    with further_processes(output_dir / CONFIG_FILE):
        evaluation, collected = _sample(run, callbacks)
        bars = [ImageProgress("unaccelerated") for shown in callbacks if isinstance(shown, ImageProgress)]
        _add_baseline(evaluation, run, collected, bars)
    if not is_first_process():
        return None
    assert collected.features is not None
    quality = measure_quality(collected.features, run.judge.extractor, run.judge.reference)
    evaluation.metrics |= quality.numbers
    evaluation.warnings += quality.warnings
    evaluation.samples = (collected.images[:SHOWN_IMAGES], collected.labels[:SHOWN_IMAGES])
    evaluation.tokens = collected.tokens
    add_lpips(evaluation, settings)
    if FLOPS not in evaluation.metrics:
        with busy("counting FLOPs"):
            count_metrics(evaluation, run.module, settings.profile)
    flops, latency = evaluation.metrics[FLOPS], evaluation.metrics.get("latency_s_per_image")
    if flops is not None and latency is not None:
        evaluation.metrics["achieved_flops"] = flops * 1e12 / latency
    return evaluation


def _prepare(config: DictConfig, settings: EvaluationSettings, output_dir: Path) -> _Run:
    """Refuse what cannot be evaluated, then make the run folder."""
    check_device(config.trainer.accelerator)
    if config.dataset.num_images < 2:
        raise ConfigError(
            f"dataset.num_images={config.dataset.num_images} has no statistics; evaluate at least 2 images."
        )
    requests, module = build_requests(config), build_module(config)
    generated = settings.baseline == GENERATE
    unaccelerated = baseline_config(config, settings.baseline_sampler) if generated else None
    check_lpips(settings)
    run = _Run(
        config=config,
        settings=settings,
        output_dir=output_dir,
        requests=requests,
        module=module,
        judge=Judge.of(config),
        num_compared=min(settings.fidelity_images, requests.num_images),
        unaccelerated=unaccelerated,
        baseline=open_baseline(config, settings),
        measured=read_measured(output_dir, flops=decides_per_batch(config)),
    )
    check_num_processes(build_trainer(config, [], output_dir), requests.num_images)
    claim_run_folder(output_dir, config, (METRICS_FILE, RECORD_FILE))
    return run


def _sample(run: _Run, callbacks: Sequence[pl.Callback]) -> tuple[Evaluation, Collected]:
    """Sample all images, or those that are missing, with everything that is measured meanwhile."""
    settings, requests = run.settings, run.requests
    keep = min(max(run.num_compared, SHOWN_IMAGES), requests.num_images)
    earlier = nothing_earlier(requests)
    if settings.resume:
        planned = build_trainer(run.config, [], run.output_dir)
        processes = planned.world_size
        run.judge.extractor.to(planned.strategy.root_device)
        there = kept_images(run.output_dir, run.config, processes)
        earlier = read_earlier(requests, run.output_dir, there, run.judge.extractor, keep, processes)
    collector = Collector(run.judge.extractor, keep, earlier.features, earlier.kept)
    if not earlier.missing.num_images:
        return _nothing_to_sample(run, collector)
    timer = BatchTimer()
    extra: list[pl.Callback] = [timer, collector]
    if settings.save_images:
        extra += [_image_writer(run), TokenWriter(run.output_dir, keep)]
    profiler = Profiler() if settings.profile else None
    if profiler is not None:
        extra.append(profiler)
    trainer = build_trainer(run.config, [*callbacks, *extra], run.output_dir)
    trainer.predict(run.module, earlier.missing, return_predictions=False)
    evaluation = Evaluation({"peak_memory_bytes": timer.peak_memory})
    _add_machine(evaluation, trainer)
    _add_speed(evaluation, timer, trainer)
    if profiler is not None and profiler.profile is not None:
        evaluation.time_shares, evaluation.steps = profiler.profile.shares(), profiler.profile.steps
    return evaluation, collector.collected


def _image_writer(run: _Run) -> ImageWriter:
    return ImageWriter(run.output_dir, run.requests.num_images, run.config.dataset.num_classes)


def _nothing_to_sample(run: _Run, collector: Collector) -> tuple[Evaluation, Collected]:
    """Where an earlier run has left every image, there is nothing to sample, and so no speed."""
    evaluation = run.measured
    _add_machine(evaluation, build_trainer(run.config, [], run.output_dir))
    known = evaluation.metrics.get("latency_s_per_image") is not None
    evaluation.warnings.append(
        "every image was there from an earlier run: "
        + ("speed and memory are that run's." if known else "no speed was measured.")
    )
    if decides_per_batch(run.config) and FLOPS not in evaluation.metrics:
        evaluation.metrics[FLOPS] = None
        evaluation.warnings.append("no FLOPs: adaptive refresh has none before it has sampled a batch.")
    collector.finish()
    if run.settings.save_images and is_first_process():
        # It may have been cut off between the last image and the grid.
        _image_writer(run).write_grid()
    return evaluation, collector.collected


def _add_machine(evaluation: Evaluation, trainer: pl.Trainer) -> None:
    """How many devices there are, and what one of them can do."""
    dtype = _DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
    evaluation.metrics |= {
        "num_devices": trainer.world_size,
        "peak_flops": gemm_peak(trainer.strategy.root_device, dtype),
    }


def _add_speed(evaluation: Evaluation, timer: BatchTimer, trainer: pl.Trainer) -> None:
    """Latency and throughput over the batches that were sampled anyway."""
    evaluation.metrics |= latency_summary(timer.warm)
    evaluation.metrics |= {
        "throughput_img_s": trainer.world_size / statistics.median(timer.warm),
        "batch_size": max(timer.batch_sizes),
    }
    if len(timer.latencies) == 1:
        evaluation.warnings.append(
            "the latency is that of a single batch, start-up included; sample more batches for a warm one."
        )


def _add_baseline(
    evaluation: Evaluation, run: _Run, collected: Collected, callbacks: Sequence[pl.Callback]
) -> None:
    """Fidelity to, and speedup over, the unaccelerated sampling of the same seed."""
    count, config = run.num_compared, run.config
    images, tokens, labels = collected.images[:count], collected.tokens[:count], collected.labels[:count]
    if run.baseline is not None:
        compare_with_folder(evaluation, images, tokens, labels, run.baseline)
    if run.unaccelerated is None:
        return
    evaluation.baseline = config_hash(run.unaccelerated)
    if same_sampling(config, run.unaccelerated):
        # Compared with itself; sampling it again would only show that it is deterministic.
        evaluation.metrics["speedup"] = 1.0
        if count:
            compare(evaluation, images, tokens, labels, images, tokens)
        return
    other = with_sampling(run.module, run.unaccelerated)
    if count:
        compare(evaluation, images, tokens, labels, *_unaccelerated_samples(run, other, callbacks))
    if run.settings.timing_rounds:
        with busy("timing in turn with the unaccelerated sampler"):
            slow, fast = measure_interleaved(
                config, [other, run.module], run.settings.timing_rounds, run.output_dir
            )
        names = ("speedup", "speedup_min", "speedup_max")
        evaluation.metrics |= dict(zip(names, speedup(slow.latencies, fast.latencies), strict=True))


def _unaccelerated_samples(run: _Run, module: InferenceModule, callbacks: Sequence[pl.Callback]) -> Samples:
    """What the run's first samples are compared with; shared with other runs where there is a folder."""

    def sample() -> Samples:
        plain = Collector(None, run.num_compared)
        trainer = build_trainer(run.config, [*callbacks, plain], run.output_dir)
        trainer.predict(module, run.requests.only(range(run.num_compared)), return_predictions=False)
        return plain.collected.images, plain.collected.tokens

    folder = run.settings.baseline_dir
    # Several processes would each have to hold the lock, and each to sample.
    if folder is None or build_trainer(run.config, [], run.output_dir).world_size > 1:
        return sample()
    assert run.unaccelerated is not None
    name = config_hash(run.unaccelerated, any_number=True)
    return shared_samples(Path(folder).absolute(), name, run.num_compared, sample)
