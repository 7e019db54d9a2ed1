"""Training data of random scenes, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mar_accel.config.settings import Share
from mar_accel.data.captions import NUM_WORD_CLASSES, caption, tokenize, word_classes
from mar_accel.data.scene_classes import GRID, NUM_CLASSES, token_classes
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import IMAGE_SIZE, draw_scene
from mar_accel.data.workers import leave_stopping_to_the_training

SceneBatch = tuple[Tensor, Tensor, Tensor, Tensor]


class SceneBatches(IterableDataset[SceneBatch]):
    """Infinite batches of images [B, 3, 64, 64] in 0..1, word ids [B, N], and the classes of tokens
    [B, 8, 16, 16] and words [B, N].

    Args:
        batch_size: B.
        seed: numbers that make this stream of scenes another than others.
        reading_order: probability that a caption names the left or upper object of a pair first.
    """

    def __init__(self, batch_size: int, seed: Sequence[int], reading_order: float = 0.5):
        self.batch_size = batch_size
        self.reading_order = reading_order
        self.seed = seed
        self.draw = SceneDrawer()

    def __iter__(self) -> Iterator[SceneBatch]:
        rng = np.random.default_rng(self.seed)
        while True:
            scenes = [draw_scene(rng) for _ in range(self.batch_size)]
            captions = [caption(scene, rng, self.reading_order) for scene in scenes]
            images, coverage = self.draw.with_coverage(scenes, rng)
            ids = tokenize(captions)
            yield images, ids, token_classes(scenes, coverage), word_classes(ids)


class SceneTrainingData(pl.LightningDataModule):
    """Composed scenes with captions. Every batch, process and resumption draws new scenes.

    Args:
        batch_size: images per step.
        num_workers: 1 if a process of its own draws the scenes, 0 if the training does; both draw the same.
        reading_order: probability that a caption with places names the left or upper object of a pair first.
            Above 0.5, the order of the words says where an object is, also to a model that does not know
            "left" yet.
    """

    channels = 3
    image_size = IMAGE_SIZE
    token_classes = NUM_CLASSES
    token_grid = (GRID, GRID)
    num_word_classes = NUM_WORD_CLASSES

    def __init__(self, batch_size: int, num_workers: Literal[0, 1] = 0, reading_order: Share = 0.5):
        super().__init__()
        self.reading_order = reading_order
        self.batch_size = batch_size
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        assert self.trainer is not None
        seed = [torch.initial_seed(), self.trainer.global_step, self.trainer.global_rank]
        batches = SceneBatches(self.batch_size, seed, self.reading_order)
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=leave_stopping_to_the_training,
        )
