"""Generation requests: sample indices and labels, as a LightningDataModule."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mar_accel.config.settings import DatasetSettings
from mar_accel.errors import ConfigError


class LabelledIndices(Dataset[tuple[int, int]]):
    """Pairs (sample index, label). The labels repeat in order, ``images_per_class`` samples each."""

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
    """Requests for the images of a dataset. With several devices, each process gets a part.

    Sample i has the label ``labels[(i // images_per_class) % len(labels)]``.

    Args:
        dataset: number of images, labels, and images per class.
        batch_size: samples per batch and device, at least 1.
    """

    def __init__(self, dataset: DatasetSettings, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self.requests = LabelledIndices(
            range(dataset.num_images), dataset.label_list, dataset.images_per_class
        )

    def setup(self, stage: str) -> None:
        """Take over the list of the first process, so that all processes deal out the same samples.

        Lists that the processes make themselves can differ, where they depend on what is on disk.
        """
        if self.trainer is not None:
            indices = self.trainer.strategy.broadcast(self.requests.indices)
            self.requests = self.only(indices).requests

    def limited(self, limit: int | float | None, num_processes: int) -> GenerationRequests:
        """The first requests, limited by ``trainer.limit_predict_batches``.

        Args:
            limit: number of batches per process (int), or share of them (float). None: no limit.
            num_processes: number of processes.

        Raises:
            ConfigError: the limit leaves no batch.
        """
        if limit is None:
            return self
        per_round = self.batch_size * num_processes
        rounds = limit if isinstance(limit, int) else int(limit * -(-self.num_images // per_round))
        if rounds < 1:
            raise ConfigError(
                f"trainer.limit_predict_batches must leave at least one batch of the {self.num_images} "
                f"images, got {limit}; raise it."
            )
        return self.only(self.requests.indices[: rounds * per_round])

    def only(self, indices: Sequence[int]) -> GenerationRequests:
        """The requests for some sample indices, with unchanged labels."""
        part = copy.copy(self)
        part.requests = LabelledIndices(indices, self.requests.labels, self.requests.images_per_class)
        return part

    def without(self, finished: Collection[int], num_processes: int = 1) -> GenerationRequests:
        """The requests without completely finished batches: none, or at least one per process.

        Batches are kept whole. Matrix products of another size sum in another order, so other batches could
        change the last bit of an image.

        Args:
            finished: indices of finished samples.
            num_processes: number of processes that share the remaining requests.
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
