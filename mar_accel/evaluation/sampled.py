"""Evaluation of a config: sample images, then measure quality, fidelity, speed and FLOPs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl

from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import ImageSet
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError, IncompleteError
from mar_accel.evaluation.baseline_store import Samples, shared_samples
from mar_accel.evaluation.collect import Collected, Collector
from mar_accel.evaluation.comparison import (
    Sampled,
    add_lpips,
    check_lpips,
    compare,
    compare_with_folder,
    open_baseline,
)
from mar_accel.evaluation.counting import count_metrics
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.measured import FLOPS, read_measured
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.result import METRICS_FILE, SHOWN_IMAGES, Evaluation
from mar_accel.evaluation.resume import Earlier, nothing_earlier, read_earlier
from mar_accel.evaluation.token_files import TokenWriter
from mar_accel.evaluation.unaccelerated import unaccelerated
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.processes import further_processes
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.same_config import SameConfig
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.trainer import build_trainer, check_num_processes
from mar_accel.inference.writer import ImageWriter, write_grid
from mar_accel.metrics.quality import measure_quality
from mar_accel.profiling.estimate import announce
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.profiling.profile import Profiler
from mar_accel.profiling.speed import latency_summary, machine_peak, speedup
from mar_accel.profiling.timer import BatchTimer
from mar_accel.runs.folder import (
    CONFIG_FILE,
    RECORD_FILE,
    claim_run_folder,
    kept_images,
    require_complete,
    require_finite,
)
from mar_accel.runs.identity import Identity, decides_per_batch
from mar_accel.runs.lock import RunLock
from mar_accel.utils.progress import busy
from mar_accel.utils.ranks import is_first_process


@dataclass
class _Run:
    """Everything that one evaluation needs.

    Attributes:
        judge: features and reference. None: no quality is measured.
        num_compared: number of samples that are compared with unaccelerated ones.
        plain: settings and session of the unaccelerated sampling; None if it is not run.
        baseline: folder of unaccelerated samples; None if there is none.
        measured: measurements of an earlier evaluation in the run folder.
    """

    settings: Settings
    identity: Identity
    output_dir: Path
    requests: GenerationRequests
    session: Session
    judge: Judge | None
    own_metrics: OwnMetrics
    num_compared: int
    plain: tuple[Settings, Session] | None
    baseline: ImageSet | None
    measured: Evaluation

    def trainer(self, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
        same = SameConfig(f"{self.identity.measurement_hash} {self.output_dir}")
        return build_trainer(self.settings.trainer, [*callbacks, same], self.output_dir)


def evaluate_sampling(
    settings: Settings,
    identity: Identity,
    output_dir: Path,
    lock: RunLock,
    callbacks: Sequence[pl.Callback] = (),
) -> Evaluation | None:
    """Sample images and evaluate them.

    Args:
        settings: settings of the evaluation.
        identity: identity of the evaluation.
        output_dir: absolute path of the run folder; it is created after all checks of the config.
        lock: the lock of the run folder.
        callbacks: further callbacks during sampling, such as a progress bar.

    Returns:
        The evaluation on the first process; None on all others.
    """
    run = _prepare(settings, identity, output_dir)
    lock.take()
    claim_run_folder(output_dir, settings, identity)
    with further_processes(output_dir / CONFIG_FILE, "mar_accel.evaluation.run:evaluate"):
        evaluation, collected = _sample(run, callbacks)
        bars = [ImageProgress("unaccelerated") for shown in callbacks if isinstance(shown, ImageProgress)]
        _add_baseline(evaluation, run, collected, bars)
    if not is_first_process():
        return None
    _add_quality(evaluation, run, collected)
    evaluation.samples = (collected.images[:SHOWN_IMAGES], collected.labels[:SHOWN_IMAGES])
    evaluation.tokens = collected.tokens
    evaluation.weights_entry = run.session.model.weights_entry
    add_lpips(evaluation, settings.evaluate)
    if FLOPS not in evaluation.metrics:
        with busy("counting FLOPs"):
            count_metrics(evaluation, run.session, settings.evaluate.profile)
    flops, latency = evaluation.metrics[FLOPS], evaluation.metrics.get("latency_s_per_image")
    if flops is not None and latency is not None:
        evaluation.metrics["achieved_flops"] = flops * 1e12 / latency
    return evaluation


def _prepare(settings: Settings, identity: Identity, output_dir: Path) -> _Run:
    """Check the config and load everything."""
    check_device(settings.trainer.accelerator)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    trainer = build_trainer(settings.trainer, [], output_dir)
    requests = requests.limited(settings.trainer.limit_predict_batches, trainer.world_size)
    if requests.num_images < 2:
        raise ConfigError("dataset.num_images must be ≥ 2 for statistics, got 1.")
    check_num_processes(trainer, requests.num_images)
    check_lpips(settings.evaluate)
    session = Session.from_settings(settings)
    plain = None
    if settings.evaluate.baseline == "generate":
        other = unaccelerated(settings)
        plain = other, session.with_settings(other)
    num_compared = min(settings.evaluate.fidelity_images, requests.num_images)
    return _Run(
        settings=settings,
        identity=identity,
        output_dir=output_dir,
        requests=requests,
        session=session,
        judge=Judge.of(settings),
        own_metrics=OwnMetrics.of(settings, session.image_shape()),
        num_compared=num_compared,
        plain=plain,
        baseline=open_baseline(
            settings.evaluate, Sampled.of(settings, identity), "this run has", range(num_compared)
        ),
        measured=read_measured(output_dir, identity, flops=decides_per_batch(settings)),
    )


def _add_quality(evaluation: Evaluation, run: _Run, collected: Collected) -> None:
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


def _sample(run: _Run, callbacks: Sequence[pl.Callback]) -> tuple[Evaluation, Collected]:
    """Sample all images, or the missing ones, and measure speed and memory meanwhile."""
    settings, requests = run.settings.evaluate, run.requests
    keep = min(max(run.num_compared, SHOWN_IMAGES), requests.num_images)
    earlier = _earlier(run, keep)
    extractor = run.judge.extractor if run.judge is not None else None
    collector = Collector(extractor, keep, earlier.features, earlier.kept)
    timer, profiler = BatchTimer(), Profiler() if settings.profile else None
    extra: list[pl.Callback] = [timer, collector, run.own_metrics]
    if settings.save_images:
        extra += [
            ImageWriter(run.output_dir, (METRICS_FILE, RECORD_FILE)),
            TokenWriter(run.output_dir, keep),
        ]
    if profiler is not None:
        extra.append(profiler)
    trainer, module = run.trainer([*callbacks, *extra]), InferenceModule(run.session)
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
    _add_speed(evaluation, timer, trainer)
    if profiler is not None and profiler.profile is not None:
        evaluation.time_shares, evaluation.steps = profiler.profile.shares(), profiler.profile.steps
    return evaluation, collector.collected


def _earlier(run: _Run, keep: int) -> Earlier:
    """The results of an earlier run. Only the first process looks at the folder, and tells the others."""
    if not (run.settings.evaluate.resume and is_first_process()):
        return nothing_earlier(run.requests)
    trainer, extractor = run.trainer(), run.judge.extractor if run.judge is not None else None
    if extractor is not None:
        extractor.to(trainer.strategy.root_device)
    shape = run.session.image_shape()
    there = kept_images(run.output_dir, run.settings, trainer.world_size, shape)
    earlier = read_earlier(run.requests, run.output_dir, there, extractor, keep, trainer.world_size)
    run.own_metrics.update_from_folder(run.output_dir, *earlier.finished)
    return earlier


def _finish_images(run: _Run, collected: Collected, not_finite: Sequence[tuple[int, int]]) -> None:
    """Check that every sample was judged and written, and write the grid."""
    num_images, saved = run.requests.num_images, run.settings.evaluate.save_images
    require_finite(not_finite, num_images, f"output_dir={run.output_dir}")
    if saved:
        require_complete(run.output_dir, num_images)
    features = collected.features
    if features is not None and features.indices.tolist() != list(range(num_images)):
        raise IncompleteError(
            f"output_dir={run.output_dir} has features of {len(features.indices)} samples, but the run makes "
            f"{num_images}; run the same command again with evaluate.resume=true."
        )
    if saved:
        write_grid(run.output_dir, num_images, run.settings.dataset.num_classes)


def _announce(run: _Run, num_images: int, num_processes: int) -> None:
    """Say how long it will take, the unaccelerated samples included."""
    sessions, images = [run.session], [num_images]
    if run.plain is not None and run.plain[1].plan != run.session.plan:
        sessions.append(run.plain[1])
        images.append(run.num_compared)
    announce(sessions, images, run.settings.trainer, num_processes)


def _nothing_sampled(run: _Run) -> Evaluation:
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


def _add_machine(evaluation: Evaluation, run: _Run, num_devices: int) -> None:
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


def _add_baseline(
    evaluation: Evaluation, run: _Run, collected: Collected, callbacks: Sequence[pl.Callback]
) -> None:
    """Add fidelity and speedup relative to unaccelerated sampling with the same seed."""
    count, settings = run.num_compared, run.settings
    images, tokens, labels = collected.images[:count], collected.tokens[:count], collected.labels[:count]
    keys, first = range(count), is_first_process()
    # Only the first process has the data of earlier images.
    if run.baseline is not None and first:
        compare_with_folder(evaluation, images, list(tokens), labels, keys, run.baseline)
    if run.plain is None:
        return
    other, plain = run.plain
    evaluation.baseline = Identity.of(other).evaluation_hash
    if (other.sampler, other.cache) == (settings.sampler, settings.cache):
        # The run is its own baseline. Sampling it again would only confirm that it is deterministic.
        evaluation.metrics["speedup"] = 1.0
        if count and first:
            compare(evaluation, (images, tokens), (images, tokens), labels, keys)
        return
    if count:
        baseline = _unaccelerated_samples(run, callbacks)
        if first:
            compare(evaluation, (images, tokens), baseline, labels, keys)
    if settings.evaluate.timing_rounds:
        _add_speedup(evaluation, run, plain)


def _add_speedup(evaluation: Evaluation, run: _Run, plain: Session) -> None:
    """Add the speedup of interleaved rounds; they also give the latency if no image was sampled."""
    with busy("timing against the unaccelerated sampler"):
        rounds = run.settings.evaluate.timing_rounds
        slow, fast = measure_interleaved(run.settings, [plain, run.session], rounds, run.output_dir)
    evaluation.metrics |= speedup(slow.latencies, fast.latencies)
    if evaluation.metrics.get("latency_s_per_image") is None:
        summary = latency_summary(fast.latencies)
        summary["throughput_img_s"] *= evaluation.metrics["num_devices"] or 1
        evaluation.metrics |= {**summary, "batch_size": run.settings.trainer.batch_size}


def _unaccelerated_samples(run: _Run, callbacks: Sequence[pl.Callback]) -> Samples:
    """The unaccelerated first samples; shared with other runs through ``evaluate.baseline_dir``."""
    assert run.plain is not None
    settings, session = run.plain

    def sample() -> Samples:
        collector = Collector(None, run.num_compared)
        requests = run.requests.only(range(run.num_compared))
        trainer, module = run.trainer([*callbacks, collector]), InferenceModule(session)
        trainer.predict(module, requests, return_predictions=False)
        require_finite(module.not_finite, run.num_compared, "evaluate.baseline=generate")
        return collector.collected.images, collector.collected.tokens

    folder = settings.evaluate.baseline_dir
    # With several processes, each would need the lock while it samples.
    if folder is None or run.trainer().world_size > 1:
        return sample()
    name = Identity.of(settings).images_hash
    return shared_samples(Path(folder).absolute(), name, run.num_compared, sample)
