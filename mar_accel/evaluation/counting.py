"""FLOPs of an evaluated config, and the share that its cache saves at each AR step."""

from __future__ import annotations

from mar_accel.evaluation.result import Evaluation
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.sampling.policy import NoCache


def count_metrics(evaluation: Evaluation, session: Session, per_step: bool) -> None:
    """Add TFLOPs per image to the metrics.

    Args:
        evaluation: receives the numbers.
        session: the sampling to count.
        per_step: also add ``tflops`` and ``cache_hits`` to the record of each AR step.
            ``cache_hits`` is the share of the step's FLOPs that the cache saves.
            It is 0 at a refresh, and near 1 if almost everything is reused.
    """
    config, sampler = session.model.config, session.sampler
    plan = session.plan
    counted = count_flops(config, sampler, session.cache, plan)
    evaluation.metrics |= {
        "tflops_per_image": counted.total / 1e12,
        "tflops_encoder": counted.encoder / 1e12,
        "tflops_decoder": counted.decoder / 1e12,
        "tflops_head": counted.head / 1e12,
    }
    if per_step and len(evaluation.steps) == len(counted.per_step):
        plain = counted if type(session.cache) is NoCache else count_flops(config, sampler, NoCache(), plan)
        _add_steps(evaluation, counted, plain)


def _add_steps(evaluation: Evaluation, counted: FlopCount, plain: FlopCount) -> None:
    for record, flops, without in zip(evaluation.steps, counted.per_step, plain.per_step, strict=True):
        record["tflops"] = flops / 1e12
        record["cache_hits"] = 1 - flops / without
