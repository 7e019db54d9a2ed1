"""FLOPs of an evaluated config, and the share that its cache saves at each AR step."""

from __future__ import annotations

from mar_accel.evaluation.result import Evaluation
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import FlopCount, count_mean
from mar_accel.sampling.policy import NoCache

# Keys of the metrics, and the parts of a count.
PARTS = {
    "tflops_per_image": "total",
    "tflops_encoder": "encoder",
    "tflops_decoder": "decoder",
    "tflops_head": "head",
}


def count_metrics(evaluation: Evaluation, session: Session, num_images: int, per_step: bool) -> None:
    """Add TFLOPs per image to the metrics: the mean over the images, whose masks may differ.

    Args:
        evaluation: receives the numbers.
        session: the sampling to count.
        num_images: number of images.
        per_step: also add ``tflops`` and ``cache_hits`` to the record of each AR step.
            ``cache_hits`` is the share of the step's FLOPs that the cache saves.
            It is 0 at a refresh, and near 1 if almost everything is reused.
    """
    config, sampler = session.model.config, session.sampler
    plans = session.plans.counted(num_images)
    counted = count_mean(config, sampler, session.cache, plans)
    for key, part in PARTS.items():
        evaluation.metrics[key] = getattr(counted, part) / 1e12
    # The steps of several plans are one after the other, and belong to none.
    if len(plans) > 1:
        evaluation.steps = []
    if per_step and counted.per_step and len(evaluation.steps) == len(counted.per_step):
        plain = counted if type(session.cache) is NoCache else count_mean(config, sampler, NoCache(), plans)
        _add_steps(evaluation, counted, plain)


def _add_steps(evaluation: Evaluation, counted: FlopCount, plain: FlopCount) -> None:
    for record, flops, without in zip(evaluation.steps, counted.per_step, plain.per_step, strict=True):
        record["tflops"] = flops / 1e12
        record["cache_hits"] = 1 - flops / without
