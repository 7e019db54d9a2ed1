"""What an evaluation measured while it sampled: kept where a later one finds every image and samples none."""

from __future__ import annotations

import json
from pathlib import Path

from mar_accel.evaluation.result import METRICS_FILE, Evaluation

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


def read_measured(output_dir: Path, flops: bool) -> Evaluation:
    """Speed and memory of a finished evaluation in a folder, and its FLOPs; empty where there is none."""
    try:
        metrics = json.loads((output_dir / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return Evaluation({})
    keys = (*_MEASURED, *_FLOPS_PARTS) if flops else _MEASURED
    numbers = {key: metrics[key] for key in keys if metrics.get(key) is not None}
    return Evaluation(numbers, time_shares=metrics.get("time_shares") or {})
