"""The handwritten digits as training data."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mar_accel.data.digits import IMAGE_SIZE, NUM_SCANS, load_scans, random_affine, render


class DigitsTrainingData(pl.LightningDataModule):
    """Handwritten digits as images in 0..1, with labels. Every batch has a new augmentation.

    Args:
        batch_size: images per step.
    """

    channels = 1
    image_size = IMAGE_SIZE
    num_classes = 10

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Number of images."""
        return NUM_SCANS

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            TensorDataset(*load_scans()), batch_size=self.batch_size, shuffle=True, drop_last=True
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        scans, labels = batch
        affine = random_affine(len(scans)).to(scans.device)
        # Coordinates are float32 under every precision of the trainer.
        images = render(scans.float(), affine)
        return images.to(scans.dtype), labels
