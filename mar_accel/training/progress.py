"""Progress of a training on the terminal: steps done, the loss, time left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from mar_accel.utils.progress import NOTE, Bar, Bars


class TrainingProgress(pl.Callback):
    """A progress bar over all optimiser steps with the loss; only the first process shows it.

    Without a terminal, as in a log file, lines are printed; see :class:`mar_accel.utils.progress.PlainLines`.

    Args:
        loss_every: number of steps after which the loss is shown again. Reading it waits for a GPU.
    """

    def __init__(self, loss_every: int) -> None:
        self.loss_every = loss_every
        self.bar: Bar | None = None
        self._shown = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        columns = ("training", BarColumn(), MofNCompleteColumn(), "steps", NOTE, TimeRemainingColumn())
        bars = self._shown.enter_context(Bars(*columns))
        self.bar = bars.add("training", trainer.max_steps, "steps", completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        if not self.bar.note or trainer.global_step % self.loss_every == 0:
            self.bar.note = f"loss {outputs['loss'].item():.3g}"
        self.bar.update(trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._shown.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._shown.close()
