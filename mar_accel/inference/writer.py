"""Write images after each batch, and a grid of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from mar_accel.inference.session import Prediction
from mar_accel.utils.images import image_name, make_grid, save_png, to_pil
from mar_accel.utils.whole_files import sync_folder

MAX_GRID_IMAGES = 100


class ImageWriter(BasePredictionWriter):
    """Saves ``images/<index>.png`` after every batch.

    Args:
        output_dir: the run folder; it must exist.
        records: names of the records of a finished run.
            They are removed before the first image is written, so a run that fails before keeps them.
    """

    def __init__(self, output_dir: Path, records: Sequence[str] = ()):
        super().__init__(write_interval="batch")
        self.output_dir = output_dir
        self.records = records
        self._started = False

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Prediction,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        folder = self.output_dir / "images"
        if not self._started:
            self._start(folder)
        for index, image in zip(prediction.indices.tolist(), prediction.images, strict=True):
            save_png(to_pil(image), folder / image_name(index), sync_name=False)
        sync_folder(folder)

    def _start(self, folder: Path) -> None:
        # Each process does this, since any of them may be the first to write.
        for name in self.records:
            (self.output_dir / name).unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        sync_folder(self.output_dir)
        self._started = True

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Afterwards the images of all processes are on disk, so they can be counted and shown.
        trainer.strategy.barrier()


def write_grid(output_dir: Path, num_images: int, num_classes: int) -> None:
    """Write ``grid.png`` from the first images of a run folder.

    Args:
        output_dir: the run folder, with all its images.
        num_images: number of images of the run.
        num_classes: number of classes.
            If it is at most 10 and divides ``num_images``, the grid has one column per class.
    """
    columns = num_classes if num_classes <= 10 and num_images % num_classes == 0 else None
    shown = [
        Image.open(output_dir / "images" / image_name(index))
        for index in range(min(num_images, MAX_GRID_IMAGES))
    ]
    save_png(make_grid(shown, columns), output_dir / "grid.png")
