"""An evaluated row of a table, and its speed from interleaved rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mar_accel.profiling.speed import latency_summary, speedup


@dataclass
class RowResult:
    """An evaluated row.

    Attributes:
        name: name of the row.
        folder: its run folder.
        metrics: content of its metrics.json.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]


def add_timings(results: Sequence[RowResult], latencies: Sequence[Sequence[float]], batch_size: int) -> None:
    """Replace the speed of each row by its interleaved rounds, and add the speedup over the first row.

    Args:
        results: the rows; their metrics are changed in place.
        latencies: seconds per image of each row and round, in each process.
        batch_size: images per process in a round.
    """
    # Other load only slows the machine down, so the largest measured peak is used for all rows.
    peak = max((result.metrics.get("peak_flops") or 0.0 for result in results), default=0.0)
    for result, row_latencies in zip(results, latencies, strict=True):
        summary = latency_summary(row_latencies)
        summary["throughput_img_s"] *= result.metrics.get("num_devices") or 1
        result.metrics |= summary | {"batch_size": batch_size, "peak_flops": peak or None}
        result.metrics |= speedup(latencies[0], row_latencies)
        if result.metrics.get("tflops_per_image"):
            median = statistics.median(row_latencies)
            result.metrics["achieved_flops"] = result.metrics["tflops_per_image"] * 1e12 / median
