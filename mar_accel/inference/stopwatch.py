"""Wall-clock time of sampling."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch


class Stopwatch(pl.Callback):
    """Measures the time from the start of the first batch to the last image of all processes.

    The start of the processes does not count.

    Attributes:
        seconds: seconds of the last prediction; 0 before its end.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.strategy.barrier()
        self._start = time.perf_counter()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        trainer.strategy.barrier()
        self.seconds = time.perf_counter() - self._start
