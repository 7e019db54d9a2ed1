"""Training data of random scenes, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mar_accel.data.captions import caption, tokenize
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import IMAGE_SIZE, draw_scene


class SceneBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Infinite batches of images [B, 3, 64, 64] in 0..1 and word ids [B, N].

    Args:
        batch_size: B. seed: numbers that make this stream of scenes another than others.
    """

    def __init__(self, batch_size: int, seed: Sequence[int]):
        self.batch_size = batch_size
        self.seed = seed
        self.draw = SceneDrawer()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(self.seed)
        while True:
            scenes = [draw_scene(rng) for _ in range(self.batch_size)]
            captions = [caption(scene, rng) for scene in scenes]
            yield self.draw(scenes, rng), tokenize(captions)


class SceneTrainingData(pl.LightningDataModule):
    """Composed scenes with captions. Every batch, process and resumption draws new scenes.

    Args:
        batch_size: images per step.
        num_workers: 1 if a process of its own draws the scenes, 0 if the training does; both draw the same.
    """

    channels = 3
    image_size = IMAGE_SIZE

    def __init__(self, batch_size: int, num_workers: Literal[0, 1] = 0):
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        assert self.trainer is not None
        seed = [torch.initial_seed(), self.trainer.global_step, self.trainer.global_rank]
        return DataLoader(SceneBatches(self.batch_size, seed), batch_size=None, num_workers=self.num_workers)
