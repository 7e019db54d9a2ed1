"""Wall-clock time and memory of every batch that a Trainer samples."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch

from mar_accel.inference.module import Prediction
from mar_accel.profiling.speed import PeakMemory


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that the clock reads what was done and not what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class BatchTimer(pl.Callback):
    """Seconds and memory of every batch, from labels to decoded images; place it before other callbacks.

    Attributes:
        latencies: seconds per image, one number per batch of this process.
        batch_sizes: images of these batches.
        memories: peak bytes of each batch; what features are computed with is not in it.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.batch_sizes: list[int] = []
        self.memories: list[int] = []
        self._start = 0.0
        self._memory = PeakMemory("cpu")

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._memory = PeakMemory(pl_module.device).start()
        synchronise(pl_module.device)
        self._start = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        synchronise(pl_module.device)
        self.batch_sizes.append(len(outputs.indices))
        self.latencies.append((time.perf_counter() - self._start) / len(outputs.indices))
        self.memories.append(self._memory.read())

    @property
    def peak_memory(self) -> int:
        """Bytes, the most that a batch needed; 0 where there was none."""
        return max(self.memories, default=0)

    @property
    def warm(self) -> list[float]:
        """Latencies without the first batch's, which warms up, where there are others."""
        return self.latencies[1:] or self.latencies
