"""What to generate: sample indices with their labels, as a LightningDataModule."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mar_accel.errors import ConfigError


class LabelledIndices(Dataset[tuple[int, int]]):
    """Pairs (sample index, label): labels in turn, so many samples of each at a time."""

    def __init__(self, indices: Sequence[int], labels: Sequence[int], images_per_class: int = 1):
        self.indices = indices
        self.labels = labels
        self.images_per_class = images_per_class

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[int, int]:
        index = self.indices[item]
        return index, self.labels[index // self.images_per_class % len(self.labels)]


class GenerationRequests(pl.LightningDataModule):
    """Requests for ``num_images`` samples.

    Sample i has the label ``labels[(i // images_per_class) % len(labels)]``; under several devices every
    process gets its share.

    Args:
        num_images: number of samples, at least 1; their indices are 0 … num_images − 1.
        num_classes: classes the model knows.
        labels: labels in 0 … num_classes − 1; None: all classes in turn.
        batch_size: samples per batch and device, at least 1.
        images_per_class: consecutive samples of a label before the next one's turn, at least 1.
    """

    def __init__(
        self,
        num_images: int,
        num_classes: int,
        labels: Sequence[int] | None,
        batch_size: int,
        images_per_class: int = 1,
    ):
        super().__init__()
        if images_per_class < 1:
            raise ConfigError(f"dataset.images_per_class={images_per_class} is too small; give at least 1.")
        if num_images < 1:
            raise ConfigError(f"dataset.num_images={num_images} is too small; give at least 1.")
        if batch_size < 1:
            raise ConfigError(f"trainer.batch_size={batch_size} is too small; give at least 1.")
        labels = list(range(num_classes)) if labels is None else list(labels)
        if not labels:
            raise ConfigError("dataset.labels is empty; give at least one label, or null for all classes.")
        for label in labels:
            if not isinstance(label, int) or not 0 <= label < num_classes:
                raise ConfigError(
                    f"dataset.labels: {label} is not a class of the model; "
                    f"give labels in 0 to {num_classes - 1}."
                )
        self.batch_size = batch_size
        self.requests = LabelledIndices(range(num_images), labels, images_per_class)

    def only(self, indices: Sequence[int]) -> GenerationRequests:
        """The requests for some of the sample indices, with the labels that they have here."""
        part = copy.copy(self)
        part.requests = LabelledIndices(indices, self.requests.labels, self.requests.images_per_class)
        return part

    def without(self, finished: Collection[int], num_processes: int = 1) -> GenerationRequests:
        """The requests but for whole batches of finished ones; none, or at least one per process.

        Batches stay as they are: an image that is sampled beside others than before may differ in its last
        bit, as matrix products of another size add up in another order.

        Args:
            finished: sample indices.
            num_processes: how many processes will share what is left.
        """
        indices, size = list(self.requests.indices), self.batch_size
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        missing = [batch for batch in batches if any(index not in finished for index in batch)]
        spare = [batch for batch in batches if batch not in missing]
        while missing and sum(map(len, missing)) < num_processes and spare:
            missing.append(spare.pop())
        return self.only([index for batch in missing for index in batch])

    @property
    def num_images(self) -> int:
        return len(self.requests)

    def predict_dataloader(self) -> DataLoader[tuple[int, int]]:
        return DataLoader(self.requests, batch_size=self.batch_size, collate_fn=_collate)


def _collate(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Indices [B] and labels [B], int64."""
    indices, labels = zip(*pairs, strict=True)
    return torch.tensor(indices), torch.tensor(labels)
