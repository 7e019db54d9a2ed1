"""Training images in a folder with one sub-folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from annotated_types import Ge, MinLen
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mar_accel.data.image_sets import SUFFIXES
from mar_accel.data.pictures import read_picture
from mar_accel.data.workers import leave_stopping_to_the_training
from mar_accel.errors import DataError


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images in one sub-folder per class, each cropped to its central square and resized.

    Args:
        path: the folder. Its sub-folders, sorted by name, are the classes 0, 1, ….
        image_size: height and width of the images in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: the folder does not exist, or no sub-folder has images.
    """

    def __init__(self, path: str | Path, image_size: int, channels: int):
        root = Path(path).expanduser()
        if not os.path.isdir(root):
            raise DataError(f"dataset.path={path} is not a folder; give the path of an existing one.")
        # Hidden ones belong to other programs, such as .ipynb_checkpoints.
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        self.classes = [folder.name for folder in folders]
        self.files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise DataError(
                f"dataset.path={path} has no sub-folders with images; put the images of each class in one."
            )
        self.image_size = image_size
        self.mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        """Returns pixels [channels, size, size] in 0..1, and the class."""
        file, label = self.files[item]
        image = read_picture(file).convert(self.mode)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((self.image_size, self.image_size), Image.Resampling.LANCZOS))
        tensor = torch.from_numpy(pixels.copy()).float() / 255
        return (tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)), label


class FolderTrainingData(pl.LightningDataModule):
    """Batches of pixels [B, channels, size, size] in 0..1 and classes [B], shuffled in each epoch.

    Args:
        path, image_size, channels: see :class:`FolderImages`.
        batch_size: images per step.
        num_workers: number of processes that read images. 0: the training process reads them.
    """

    def __init__(
        self,
        path: Annotated[str, MinLen(1)],
        image_size: Annotated[int, Ge(1)],
        channels: Literal[1, 3],
        batch_size: int,
        num_workers: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__()
        self.channels, self.image_size = channels, image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.images = FolderImages(path, image_size, channels)
        self.num_classes = len(self.images.classes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            self.images,
            self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.num_workers,
            worker_init_fn=leave_stopping_to_the_training,
        )
