"""Progress on the terminal: images done, images per second, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.progress import PlainLines, shows_bars


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
    """

    def __init__(self, description: str = "sampling") -> None:
        self.description = description
        self.progress: Progress | None = None
        self._lines: PlainLines | None = None
        self._num_images = 0
        self._num_processes = 1
        self._done = self._finished = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._num_images, self._num_processes = datamodule.num_images, trainer.world_size
        self._done = self._finished = 0.0
        self.progress = Progress(
            self.description,
            BarColumn(),
            MofNCompleteColumn(),
            "images",
            ImagesPerSecond(),
            TimeRemainingColumn(),
            disable=not shows_bars(),
        )
        self._lines = None if shows_bars() else PlainLines(self.description, self._num_images, "images")
        self.progress.add_task("sampling", total=self._num_images)
        self.progress.start()
        pl_module.observers.append(self)

    def start(self, state: DecodeState) -> None:
        # A batch that did not fit into memory begins again.
        self._done = self._finished

    def finish(self, state: DecodeState) -> None:
        self._finished = self._done

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        assert self.progress is not None
        images = state.batch_size * self._num_processes / len(state.plan.steps)
        self._done = min(self._done + images, float(self._num_images))
        # The bar shows whole images, since fractions would be hard to read.
        completed = int(self._done + 1e-6)
        self.progress.update(self.progress.task_ids[0], completed=completed)
        if self._lines is not None:
            self._lines.update(completed)

    def _stop(self, pl_module: Any) -> None:
        if self.progress is not None:
            pl_module.observers.remove(self)
            self.progress.stop()
            self.progress = None

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop(pl_module)


class StepProgress(Observer):
    """Advances a progress bar by one at every AR step."""

    def __init__(self, progress: Progress, total: int):
        self.progress = progress
        self.task = progress.add_task("sampling", total=total)

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.progress.advance(self.task)


@contextmanager
def step_progress(total: int, **settings: Any) -> Iterator[StepProgress]:
    """A progress bar over AR steps that disappears at the end.

    Args:
        total: number of AR steps of all batches.
        settings: arguments of :class:`rich.progress.Progress`, such as ``disable=True``.
    """
    with Progress(**{"transient": True, **settings}) as progress:
        yield StepProgress(progress, total)
