"""The callback that lets a run stop between two batches."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mar_accel.inference.stopping import STOP


class StopBetweenBatches(pl.Callback):
    """Ends a prediction after the batch in which a stop was requested.

    It must come after all callbacks that write. See :class:`mar_accel.inference.stopping.Stop`.
    """

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        STOP.enter_batch()

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        STOP.leave_batch()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        STOP.leave_batch()
