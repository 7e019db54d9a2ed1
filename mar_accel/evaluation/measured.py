"""What an evaluation measured while it sampled: kept where a later one finds every image and samples none."""

from __future__ import annotations

import json
from pathlib import Path

from mar_accel.evaluation.result import METRICS_FILE, Evaluation

FLOPS = "tflops_per_image"
_FLOPS_PARTS = (FLOPS, "tflops_encoder", "tflops_decoder", "tflops_head")
_MEASURED = (
    "latency_s_per_image",
    "latency_s_per_image_min",
    "latency_s_per_image_max",
    "throughput_img_s",
    "batch_size",
    "peak_memory_bytes",
    *_FLOPS_PARTS,
)


def read_measured(output_dir: Path) -> Evaluation:
    """Speed, memory and FLOPs of a finished evaluation in a folder; empty where there is none."""
    try:
        metrics = json.loads((output_dir / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return Evaluation({})
    numbers = {key: metrics[key] for key in _MEASURED if metrics.get(key) is not None}
    return Evaluation(numbers, time_shares=metrics.get("time_shares") or {})


def drop_flops(evaluation: Evaluation) -> None:
    """Leave the FLOPs out: they do not depend on what was sampled and are counted anew."""
    for key in _FLOPS_PARTS:
        evaluation.metrics.pop(key, None)
