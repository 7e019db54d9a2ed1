"""Progress on the terminal: images done, images per second, time left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.progress import Bar, Bars


class ImagesPerSecond(ProgressColumn):
    """A column with the images per second so far."""

    def render(self, task: Task) -> Text:
        done, elapsed = task.completed, task.elapsed or 0.0
        return Text(f"{done / elapsed:.2f} images/s" if done and elapsed else "– images/s", style="cyan")


class ImageProgress(pl.Callback, Observer):
    """A progress bar over all images, advanced at every AR step; only the first process shows it.

    Without a terminal, as in a log file, lines are printed; see :class:`mar_accel.utils.progress.PlainLines`.

    Args:
        description: text before the bar.
        bars: bars to which this one is added, such as those of a table. None: it stands alone.
    """

    def __init__(self, description: str = "sampling", bars: Bars | None = None) -> None:
        self.description = description
        self.bar: Bar | None = None
        self._shared, self._alone = bars, ExitStack()
        self._num_images = 0
        self._num_processes = 1
        self._finished = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._num_images, self._num_processes = datamodule.num_images, trainer.world_size
        self._finished = 0.0
        bars = self._shared or self._alone.enter_context(
            Bars(
                self.description,
                BarColumn(),
                MofNCompleteColumn(),
                "images",
                ImagesPerSecond(),
                TimeRemainingColumn(),
            )
        )
        self.bar = bars.add(self.description, self._num_images, "images")
        pl_module.observers.append(self)

    def start(self, state: DecodeState) -> None:
        # A batch that did not fit into memory begins again.
        assert self.bar is not None
        self.bar.completed = self._finished

    def finish(self, state: DecodeState) -> None:
        assert self.bar is not None
        self._finished = self.bar.completed

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        assert self.bar is not None
        images = state.batch_size * self._num_processes / len(state.plan.steps)
        self.bar.update(min(self.bar.completed + images, float(self._num_images)))

    def _stop(self, pl_module: Any) -> None:
        if self.bar is not None:
            pl_module.observers.remove(self)
            self.bar = None
            self._alone.close()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop(pl_module)


class StepProgress(Observer):
    """Advances a progress bar of images at every AR step, by a part of the batch."""

    def __init__(self, bar: Bar):
        self.bar = bar

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.bar.advance(state.batch_size / len(state.plan.steps))
