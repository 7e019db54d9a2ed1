"""Wall-clock time, processor time and peak memory of every batch that a Trainer samples."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch

from mar_accel.inference.module import Prediction
from mar_accel.profiling.speed import PeakMemory


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work, so that the clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class BatchTimer(pl.Callback):
    """Time and peak memory of every batch, from labels to decoded images.

    Place it before other callbacks, so that their work is not measured.

    Attributes:
        latencies: seconds per image of each batch of this process.
        processor_seconds: seconds of all processor cores together, per image. Work of other processes, which
            slows ``latencies`` down, is not in it.
        batch_sizes: number of images in each batch.
        memories: peak memory of each batch in bytes, without the computation of features.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.processor_seconds: list[float] = []
        self.batch_sizes: list[int] = []
        self.memories: list[int] = []
        self._start = self._processor_start = 0.0
        self._memory = PeakMemory("cpu")

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._memory = PeakMemory(pl_module.device).start()
        synchronise(pl_module.device)
        self._start, self._processor_start = time.perf_counter(), time.process_time()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, batch: Any, *args: Any
    ) -> None:
        synchronise(pl_module.device)
        indices, _ = batch
        self.batch_sizes.append(len(indices))
        self.latencies.append((time.perf_counter() - self._start) / len(indices))
        self.processor_seconds.append((time.process_time() - self._processor_start) / len(indices))
        self.memories.append(self._memory.read())

    @property
    def peak_memory(self) -> int:
        """Largest peak memory of a batch in bytes; 0 without batches."""
        return max(self.memories, default=0)

    @property
    def warm(self) -> list[float]:
        """Latencies without the first batch, which is a warm-up; a single batch is kept."""
        return self.latencies[1:] or self.latencies
