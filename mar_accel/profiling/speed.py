"""Latency and its spread, peak memory, and the peak FLOP/s of the machine."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mar_accel.config.settings import TrainerSettings
from mar_accel.utils.host_memory import give_back_freed_memory

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def latency_summary(latencies: Sequence[float]) -> dict[str, float]:
    """Median seconds per image, their range, and the throughput of one process.

    Args:
        latencies: seconds per image of at least one batch.

    Returns:
        latency_s_per_image (median), latency_s_per_image_min and _max, throughput_img_s (1 / median).

    Example:
        >>> latency_summary([0.5, 0.4, 0.6])["throughput_img_s"]
        2.0
    """
    median = statistics.median(latencies)
    return {
        "latency_s_per_image": median,
        "latency_s_per_image_min": min(latencies),
        "latency_s_per_image_max": max(latencies),
        "throughput_img_s": 1 / median,
    }


def speedup(baseline: Sequence[float], accelerated: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest ratio baseline / accelerated over the rounds.

    Args:
        baseline, accelerated: seconds per image of each round; equally many.

    Returns:
        speedup (median), speedup_min, speedup_max.
    """
    ratios = [slow / fast for slow, fast in zip(baseline, accelerated, strict=True)]
    return {"speedup": statistics.median(ratios), "speedup_min": min(ratios), "speedup_max": max(ratios)}


class PeakMemory:
    """Peak memory between ``start`` and ``read``.

    It is that of the GPU if ``device`` is one, else that of the process.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    def start(self) -> PeakMemory:
        """Reset the peak.

        If the system cannot reset it, ``read`` gives the peak since the process started.
        On a CPU, memory freed by earlier tensors is first returned to the system.
        Otherwise it would count as used.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        give_back_freed_memory()
        with contextlib.suppress(OSError):
            _CLEAR_REFS.write_text("5")  # Linux: resets the peak of the resident set
        return self

    def read(self) -> int:
        """Peak memory in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if _STATUS.is_file():
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
# Rows and columns of the matrices for gemm_peak: large enough to use the whole device, yet fast.
GEMM_SIZES = {"cuda": 8192}
GEMM_SIZE = 1024
# A product of this size tells beforehand whether a large one would take seconds, as in float16 on many CPUs.
SMALL_GEMM_SIZE = 256
# Slower machines, in FLOP/s, are measured with the small product alone.
_SLOW = 5e9


def gemm_peak(
    device: torch.device | str, dtype: torch.dtype, size: int | None = None, repeats: int = 5
) -> float:
    """Peak FLOP/s of the machine: a large matrix product, the best of several repeats.

    Args:
        device: device that computes the product.
        dtype: dtype of the matrices.
        size: rows and columns; one product takes 2·size³ FLOPs. None: 8192 on CUDA, else 1024, and 256 where
            that would take a second.
        repeats: number of products after the first one, which may include the start of the library.
    """
    device = torch.device(device)
    if size is None:
        slow = device.type == "cpu" and gemm_peak(device, dtype, SMALL_GEMM_SIZE, repeats=1) < _SLOW
        size = SMALL_GEMM_SIZE if slow else GEMM_SIZES.get(device.type, GEMM_SIZE)
    a = torch.randn(size, size, dtype=torch.float32, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def sampling_device(trainer: TrainerSettings) -> str:
    """The device that a trainer samples on first, such as "cuda", "cuda:3", "mps" or "cpu"."""
    if trainer.accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return f"cuda:{trainer.devices[0]}" if isinstance(trainer.devices, list) else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def machine_peak(trainer: TrainerSettings) -> float:
    """Peak FLOP/s of one device of a trainer, in the dtype of its precision."""
    dtype = _DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
    return gemm_peak(sampling_device(trainer), dtype)
