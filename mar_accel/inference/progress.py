"""Progress on the terminal: images done, images per second, time left."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import DecodeState


class ImagesPerSecond(ProgressColumn):
    """Images per second so far."""

    def render(self, task: Task) -> Text:
        done, elapsed = task.completed, task.elapsed or 0.0
        return Text(f"{done / elapsed:.2f} images/s" if done and elapsed else "– images/s", style="cyan")


class ImageProgress(pl.Callback):
    """A progress bar over all images, moved on by every AR step; shown by the first process alone.

    Args:
        description: what stands before the bar.
    """

    def __init__(self, description: str = "sampling") -> None:
        self.description = description
        self.progress: Progress | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.progress = Progress(
            self.description,
            BarColumn(),
            MofNCompleteColumn(),
            "images",
            ImagesPerSecond(),
            TimeRemainingColumn(),
        )
        task = self.progress.add_task("sampling", total=datamodule.num_images)
        done, images_per_batch, num_steps = 0.0, 0, len(pl_module.plan.steps)

        def on_ar_step(step: ARStep, state: DecodeState) -> None:
            nonlocal done, images_per_batch
            images_per_batch = state.batch_size * trainer.world_size
            done = min(done + images_per_batch / num_steps, float(datamodule.num_images))
            assert self.progress is not None
            # The bar counts whole images; the fraction would read as clutter.
            self.progress.update(task, completed=int(done + 1e-6))

        pl_module.on_ar_step = on_ar_step
        self.progress.start()

    def _stop(self, pl_module: Any) -> None:
        pl_module.on_ar_step = None
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop(pl_module)
