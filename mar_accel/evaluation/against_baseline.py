"""Fidelity and speedup of an evaluation, against unaccelerated sampling with the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl

from mar_accel.evaluation.baseline_store import Samples, shared_samples
from mar_accel.evaluation.collector import Collected, Collector
from mar_accel.evaluation.comparison import compare, compare_with_folder
from mar_accel.evaluation.preparation import Preparation
from mar_accel.evaluation.result import Evaluation
from mar_accel.inference.session import Session
from mar_accel.profiling.interleaved import measure_interleaved
from mar_accel.profiling.speed import latency_summary, speedup
from mar_accel.runs.folder import (
    require_finite,
)
from mar_accel.runs.identity import Identity
from mar_accel.utils.progress import busy
from mar_accel.utils.ranks import is_first_process


def add_baseline(
    evaluation: Evaluation, run: Preparation, collected: Collected, callbacks: Sequence[pl.Callback]
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
    if run.is_unaccelerated:
        # The run is its own baseline. Sampling it again would only confirm that it is deterministic.
        evaluation.metrics["speedup"] = 1.0
        if count and first:
            compare(evaluation, (images, tokens), (images, tokens), labels, keys)
        return
    if count:
        baseline = _unaccelerated_samples(run, callbacks)
        if first:
            compare(evaluation, (images, tokens), baseline, labels, keys)
    if settings.evaluate.timing_rounds and not evaluation.divided:
        _add_speedup(evaluation, run, plain)


def _add_speedup(evaluation: Evaluation, run: Preparation, plain: Session) -> None:
    """Add the speedup of interleaved rounds; they also give the latency if no image was sampled."""
    with busy("timing against the unaccelerated sampler"):
        rounds = run.settings.evaluate.timing_rounds
        slow, fast = measure_interleaved(run.settings, [plain, run.session], rounds, run.output_dir)
    evaluation.metrics |= speedup(slow.latencies, fast.latencies)
    if evaluation.metrics.get("latency_s_per_image") is None:
        summary = latency_summary(fast.latencies)
        summary["throughput_img_s"] *= evaluation.metrics["num_devices"] or 1
        evaluation.metrics |= {**summary, "batch_size": run.settings.trainer.batch_size}


def _unaccelerated_samples(run: Preparation, callbacks: Sequence[pl.Callback]) -> Samples:
    """The unaccelerated first samples; shared with other runs through ``evaluate.baseline_dir``."""
    assert run.plain is not None
    settings, session = run.plain

    def sample() -> Samples:
        collector = Collector(None, run.num_compared)
        trainer, module = run.trainer([*callbacks, collector]), run.module(settings, session)
        requests = run.requests.first(run.num_compared, trainer.world_size)
        trainer.predict(module, requests, return_predictions=False)
        require_finite(module.not_finite, run.num_compared, "evaluate.baseline=generate")
        return collector.collected.images, collector.collected.tokens

    folder = settings.evaluate.baseline_dir
    # With several processes, each would need the lock while it samples.
    if folder is None or run.trainer().world_size > 1:
        return sample()
    name = Identity.of(settings).images_hash
    return shared_samples(Path(folder).absolute(), name, run.num_compared, sample)
