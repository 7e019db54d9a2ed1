"""What an evaluation measured while it sampled: kept where a later one finds every image and samples none."""

from __future__ import annotations

from pathlib import Path

from mar_accel.evaluation.result import METRICS_FILE, Evaluation
from mar_accel.runs.folder import RECORD_FILE, read_json
from mar_accel.runs.identity import Identity
from mar_accel.runs.record import environment

FLOPS = "tflops_per_image"
_MEASURED = (
    "latency_s_per_image",
    "latency_s_per_image_min",
    "latency_s_per_image_max",
    "throughput_img_s",
    "batch_size",
    "peak_memory_bytes",
)
# Counted anew, but where they depend on what was sampled.
_FLOPS_PARTS = (FLOPS, "tflops_encoder", "tflops_decoder", "tflops_head")


def read_measured(output_dir: Path, identity: Identity, flops: bool) -> Evaluation:
    """Speed and memory of a finished evaluation in a folder, and with ``flops`` its FLOPs.

    Empty where there is none, or it was measured under other conditions: on another machine, by other code,
    with another batch size.
    """
    metrics, record = read_json(output_dir / METRICS_FILE), read_json(output_dir / RECORD_FILE)
    there = metrics.get("identity", {}).get("measurement")
    same = there == identity.measurement_hash and environment(record) == environment()
    keys = (*(_MEASURED if same else ()), *(_FLOPS_PARTS if flops else ()))
    numbers = {key: metrics[key] for key in keys if metrics.get(key) is not None}
    return Evaluation(numbers, time_shares=(metrics.get("time_shares") or {}) if same else {})
