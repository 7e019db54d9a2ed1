"""Evaluation of a config: sample images, then measure quality, fidelity, speed and FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl

from mar_accel.config.settings import Settings
from mar_accel.data.run_files import CONFIG_FILE, METRICS_FILE, RECORD_FILE
from mar_accel.data.shards import Shards
from mar_accel.errors import IncompleteError
from mar_accel.evaluation.against_baseline import add_baseline
from mar_accel.evaluation.collector import Collected, Collector
from mar_accel.evaluation.comparison import add_lpips
from mar_accel.evaluation.counting import count_metrics
from mar_accel.evaluation.measured import FLOPS
from mar_accel.evaluation.preparation import Preparation, prepare
from mar_accel.evaluation.result import SHOWN_IMAGES, Evaluation
from mar_accel.evaluation.resume import Earlier, nothing_earlier, read_earlier
from mar_accel.evaluation.token_files import TokenWriter
from mar_accel.inference.between_batches import StopBetweenBatches
from mar_accel.inference.children import further_processes
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.writer import ImageWriter
from mar_accel.metrics.quality import measure_quality
from mar_accel.profiling.estimate import announce
from mar_accel.profiling.profile import Profiler
from mar_accel.profiling.speed import latency_summary, machine_peak
from mar_accel.profiling.timer import BatchTimer
from mar_accel.runs.folder import claim_run_folder, kept_images, require_complete, require_finite
from mar_accel.runs.generation import finish_images, how_to_continue
from mar_accel.runs.identity import Identity, decides_per_batch
from mar_accel.runs.lock import RunLock
from mar_accel.runs.run_log import RunLog
from mar_accel.utils.progress import busy
from mar_accel.utils.ranks import is_first_process


def evaluate_sampling(
    settings: Settings,
    identity: Identity,
    output_dir: Path,
    lock: RunLock,
    log: RunLog,
    callbacks: Sequence[pl.Callback] = (),
) -> Evaluation | None:
    """Sample images and evaluate them.

    Args:
        settings: settings of the evaluation.
        identity: identity of the evaluation.
        output_dir: absolute path of the run folder; it is created after all checks of the config.
        lock: the lock of the run folder.
        log: the log of the run, which starts before the first image is sampled.
        callbacks: further callbacks during sampling, such as a progress bar.

    Returns:
        The evaluation on the first process; None on all others.
    """
    run = prepare(settings, identity, output_dir)
    lock.take()
    claim_run_folder(output_dir, settings, identity)
    log.start()
    task = "mar_accel.evaluation.run:evaluate"
    with how_to_continue(run.images, settings), further_processes(output_dir / CONFIG_FILE, task):
        evaluation, collected = _sample(run, callbacks)
        bars = [ImageProgress("unaccelerated") for shown in callbacks if isinstance(shown, ImageProgress)]
        add_baseline(evaluation, run, collected, bars)
    if not is_first_process():
        return None
    _add_quality(evaluation, run, collected)
    evaluation.samples = (collected.images[:SHOWN_IMAGES], collected.labels[:SHOWN_IMAGES])
    evaluation.tokens = collected.tokens
    evaluation.weights_entry = run.session.model.weights_entry
    evaluation.warnings += run.session.conditioner.notes
    add_lpips(evaluation, settings.evaluate)
    if FLOPS not in evaluation.metrics:
        with busy("counting FLOPs"):
            count_metrics(evaluation, run.session, run.requests.num_images, settings.evaluate.profile)
    flops, latency = evaluation.metrics[FLOPS], evaluation.metrics.get("latency_s_per_image")
    if flops is not None and latency is not None:
        evaluation.metrics["achieved_flops"] = flops * 1e12 / latency
    return evaluation


def _add_quality(evaluation: Evaluation, run: Preparation, collected: Collected) -> None:
    """Add the metrics of all images; without features only their number and user-defined metrics."""
    evaluation.metrics |= run.own_metrics.numbers
    evaluation.warnings += run.own_metrics.warnings
    if run.judge is None:
        evaluation.metrics["num_images"] = run.requests.num_images
        return
    assert collected.features is not None
    quality = measure_quality(collected.features, run.judge.extractor, run.judge.reference)
    evaluation.metrics |= quality.numbers
    evaluation.warnings += quality.warnings


def _sample(run: Preparation, callbacks: Sequence[pl.Callback]) -> tuple[Evaluation, Collected]:
    """Sample all images, or the missing ones, and measure speed and memory meanwhile."""
    settings, requests = run.settings, run.requests
    keep = min(max(run.num_compared, SHOWN_IMAGES), requests.num_images)
    earlier = _earlier(run, keep)
    extractor = run.judge.extractor if run.judge is not None else None
    collector = Collector(extractor, keep, earlier.features, earlier.kept)
    timer, profiler = BatchTimer(), Profiler() if settings.evaluate.profile else None
    extra: list[pl.Callback] = [collector, run.own_metrics]
    if settings.evaluate.save_images:
        extra += [
            ImageWriter(run.images, (METRICS_FILE, RECORD_FILE), anew=not settings.evaluate.resume),
            TokenWriter(run.output_dir, keep),
        ]
    if profiler is not None:
        extra.append(profiler)
    extra.append(StopBetweenBatches())
    trainer, module = run.trainer([timer, *callbacks, *extra]), run.module(settings, run.session)
    # Lightning skips a prediction of nothing, and a process may have nothing left to sample.
    run.own_metrics.to(trainer.strategy.root_device)
    if earlier.missing.num_images:
        _announce(run, earlier.missing.num_images, trainer.world_size)
    # Only the first process knows whether anything is missing, so the others ask it in any case.
    if earlier.missing.num_images or trainer.world_size > 1:
        trainer.predict(module, earlier.missing, return_predictions=False)
    if not earlier.missing.num_images:
        collector.finish()
        run.own_metrics.compute()
    if is_first_process():
        _finish_images(run, collector.collected, module.not_finite)
    if not earlier.missing.num_images:
        return _nothing_sampled(run), collector.collected
    evaluation = Evaluation({"peak_memory_bytes": timer.peak_memory})
    _add_machine(evaluation, run, trainer.world_size)
    if module.largest_batch is None:
        _add_speed(evaluation, timer, trainer)
    else:
        _add_smaller_batch(evaluation, module.largest_batch, settings.trainer.batch_size)
    if profiler is not None and profiler.profile is not None:
        evaluation.time_shares, evaluation.steps = profiler.profile.shares(), profiler.profile.steps
    return evaluation, collector.collected


def _earlier(run: Preparation, keep: int) -> Earlier:
    """The results of an earlier run. Only the first process looks at the folder, and tells the others."""
    resume, images = run.settings.evaluate.resume, run.images
    # Shards that cannot be read go in any case, since they would be joined.
    if not is_first_process() or not (resume or isinstance(images, Shards)):
        return nothing_earlier(run.requests)
    trainer = run.trainer()
    there = kept_images(images, run.settings, trainer.world_size, run.session.image_shape())
    if not resume:
        return nothing_earlier(run.requests)
    extractor = run.judge.extractor if run.judge is not None else None
    if extractor is not None:
        extractor.to(trainer.strategy.root_device)
    return read_earlier(run.requests, images, there, extractor, run.own_metrics, keep, trainer.world_size)


def _finish_images(run: Preparation, collected: Collected, not_finite: Sequence[tuple[int, int]]) -> None:
    """Check that every sample was judged and written, and write the grid."""
    num_images, saved = run.requests.num_images, run.settings.evaluate.save_images
    require_finite(not_finite, num_images, f"output_dir={run.output_dir}")
    if saved:
        require_complete(run.images, num_images)
    features = collected.features
    if features is not None and features.indices.tolist() != list(range(num_images)):
        raise IncompleteError(
            f"output_dir={run.output_dir} has features of {len(features.indices)} samples, but the run makes "
            f"{num_images}; run the same command again with evaluate.resume=true."
        )
    if saved:
        finish_images(run.images, run.settings.dataset, num_images)


def _announce(run: Preparation, num_images: int, num_processes: int) -> None:
    """Say how long it will take, the unaccelerated samples included."""
    sessions, images = [run.session], [num_images]
    if run.plain is not None and not run.is_unaccelerated and run.num_compared:
        sessions.append(run.plain[1])
        images.append(run.num_compared)
    announce(sessions, images, run.settings.trainer, num_processes)


def _nothing_sampled(run: Preparation) -> Evaluation:
    """The measurements if all images exist already; speed can then only come from an earlier run."""
    evaluation = run.measured
    _add_machine(evaluation, run, run.trainer().world_size)
    known = evaluation.metrics.get("latency_s_per_image") is not None
    evaluation.warnings.append(
        "all images exist from an earlier run: "
        + ("speed and memory are from that run." if known else "no speed was measured while sampling.")
    )
    if decides_per_batch(run.settings) and FLOPS not in evaluation.metrics:
        evaluation.metrics[FLOPS] = None
        evaluation.warnings.append("no FLOPs: with adaptive refresh they are known only after sampling.")
    return evaluation


def _add_machine(evaluation: Evaluation, run: Preparation, num_devices: int) -> None:
    """Add the number of devices, and the peak FLOP/s of one of them."""
    evaluation.metrics |= {"num_devices": num_devices, "peak_flops": machine_peak(run.settings.trainer)}


def _add_speed(evaluation: Evaluation, timer: BatchTimer, trainer: pl.Trainer) -> None:
    """Add latency and throughput of the sampled batches."""
    evaluation.metrics |= latency_summary(timer.warm)
    evaluation.metrics |= {
        "throughput_img_s": trainer.world_size / statistics.median(timer.warm),
        "batch_size": max(timer.batch_sizes),
    }
    if len(timer.latencies) == 1:
        evaluation.warnings.append(
            "the latency is of a single batch and includes the warm-up; sample more batches to exclude it."
        )


def _add_smaller_batch(evaluation: Evaluation, largest_batch: int, asked: int) -> None:
    """Say that batches did not fit into memory. A speed would not be that of the asked batch size."""
    evaluation.divided = True
    evaluation.metrics |= {"batch_size": largest_batch, "peak_memory_bytes": None}
    evaluation.warnings.append(
        f"a batch of {asked} images did not fit into memory and was sampled {largest_batch} at a time, so no "
        "speed is given; lower trainer.batch_size to measure it."
    )
