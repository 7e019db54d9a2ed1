"""Write images after each batch, and a grid of a finished run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from PIL import Image

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.run_files import GRID_FILE
from mar_accel.data.run_images import RunImages
from mar_accel.inference.session import Prediction
from mar_accel.utils.captions import captions_below
from mar_accel.utils.images import make_grid, save_png, to_pil

MAX_GRID_IMAGES = 100
# Captioned images are enlarged by a whole factor to at least this size.
CAPTIONED_SIZE = 128
NEAREST = Image.Resampling.NEAREST


class ImageWriter(pl.Callback):
    """Writes the images of every batch.

    Args:
        images: how they lie in the run folder, which must exist.
        records: names of the records of a finished run.
            They are removed before the first image is written, so a run that fails before keeps them.
        anew: whether all images are made again.
    """

    def __init__(self, images: RunImages, records: Sequence[str] = (), anew: bool = False):
        self.images = images
        self.records = records
        self.anew = anew
        self._started = False

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        if not self._started:
            self._start()
        if len(outputs.indices):
            pictures = [to_pil(image) for image in outputs.images]
            self.images.write(outputs.indices.tolist(), outputs.labels.tolist(), pictures)

    def _start(self) -> None:
        # Each process does this, since any of them may be the first to write.
        for name in self.records:
            (self.images.output_dir / name).unlink(missing_ok=True)
        self.images.start(self.anew)
        self._started = True

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # Afterwards the images of all processes are on disk, so they can be counted and shown.
        trainer.strategy.barrier()


def write_grid(images: RunImages, num_images: int, dataset: DatasetSettings) -> None:
    """Write ``grid.png`` from the first images of a run folder.

    Args:
        images: the images of the run, all of them.
        num_images: number of images of the run.
        dataset: the labels. Up to 10 classes get one column each, if they divide ``num_images``.
            Prompts are the captions of their images; several images of a prompt make a row.
    """
    shown = images.first(min(num_images, MAX_GRID_IMAGES))
    classes, per_label = dataset.num_classes, dataset.images_per_label
    if dataset.prompts is None:
        columns = classes if classes <= 10 and num_images % classes == 0 else None
        grid = make_grid(shown, columns)
    else:
        factor = math.ceil(CAPTIONED_SIZE / min(shown[0].size))
        tiles = [image.resize((image.width * factor, image.height * factor), NEAREST) for image in shown]
        labels = (
            dataset.label_list[index // per_label % len(dataset.prompts)] for index in range(len(shown))
        )
        columns = per_label if 1 < per_label <= 10 else min(8, math.ceil(math.sqrt(len(shown))))
        grid = captions_below(tiles, [dataset.name_of(label) for label in labels], columns)
    save_png(grid, images.output_dir / GRID_FILE)
