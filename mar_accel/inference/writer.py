"""Write images after each batch, and a grid at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from mar_accel.inference.session import Prediction
from mar_accel.utils.images import image_name, make_grid, save_png, to_pil

MAX_GRID_IMAGES = 100


class ImageWriter(BasePredictionWriter):
    """Saves ``images/<index>.png`` after every batch and ``grid.png`` at the end.

    Args:
        output_dir: the run folder; it must exist.
        num_images: number of images of the whole run.
        num_classes: number of classes.
            If it is at most 10 and divides ``num_images``, the grid has one column per class.
    """

    def __init__(self, output_dir: Path, num_images: int, num_classes: int):
        super().__init__(write_interval="batch")
        self.output_dir = output_dir
        self.num_images = num_images
        self.columns = num_classes if num_classes <= 10 and num_images % num_classes == 0 else None

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
        folder.mkdir(exist_ok=True)
        for index, image in zip(prediction.indices.tolist(), prediction.images, strict=True):
            save_png(to_pil(image), folder / image_name(index))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Other processes may still be writing the images that the grid shows.
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.write_grid()

    def write_grid(self) -> None:
        """Write ``grid.png`` from the first images, which must all exist."""
        shown = [
            Image.open(self.output_dir / "images" / image_name(index))
            for index in range(min(self.num_images, MAX_GRID_IMAGES))
        ]
        save_png(make_grid(shown, self.columns), self.output_dir / "grid.png")
