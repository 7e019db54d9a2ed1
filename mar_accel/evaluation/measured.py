"""Measurements of an earlier evaluation, reused if all its images exist and none is sampled."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mar_accel.data.run_files import METRICS_FILE, RECORD_FILE
from mar_accel.errors import DataError
from mar_accel.evaluation.result import STEPS_FILE, Evaluation, read_steps
from mar_accel.metrics.catalogue import keys_of
from mar_accel.runs.identity import Identity
from mar_accel.runs.record import environment
from mar_accel.runs.stored import damaged_key, damaged_number, numbers_of, read_record
from mar_accel.utils.json_files import read_json

FLOPS = "tflops_per_image"


def read_measured(output_dir: Path, identity: Identity, flops: bool) -> Evaluation:
    """Speed and memory of a finished evaluation in a folder.

    The result is empty if there is none, or if it was measured under other conditions.
    Conditions include the machine, the code and the batch size.

    Args:
        output_dir: the run folder.
        identity: identity of the current evaluation.
        flops: also return the counted FLOPs.
    """
    metrics, record = read_json(output_dir / METRICS_FILE), read_record(output_dir / RECORD_FILE)
    if damaged_key(metrics) or damaged_number(metrics):
        return Evaluation({})
    there = (metrics.get("identity") or {}).get("measurement")
    same = there == identity.measurement_hash and environment(record) == environment()
    # FLOPs are counted again, unless they depend on the sampled images.
    keys = (*(keys_of("speed") if same else ()), *(keys_of("flops") if flops else ()))
    numbers = {key: metrics[key] for key in keys if metrics.get(key) is not None}
    if not same:
        return Evaluation(numbers)
    steps: list[dict[str, float]] = []
    with suppress(DataError):  # a damaged file is as good as none
        steps = read_steps(output_dir / STEPS_FILE)
    return Evaluation(numbers, time_shares=numbers_of(metrics.get("time_shares")), steps=steps)
