"""Generation requests: sample indices and labels, as a LightningDataModule."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.config.settings import DatasetSettings
from mar_accel.errors import ConfigError


class LabelledIndices(Sequence[tuple[int, int]]):
    """Pairs (sample index, label). The labels repeat in order, ``images_per_class`` samples each."""

    def __init__(self, indices: Sequence[int], labels: Sequence[int], images_per_class: int = 1):
        self.indices = indices
        self.labels = labels
        self.images_per_class = images_per_class

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: Any) -> Any:
        index = self.indices[item]
        return index, self.labels[index // self.images_per_class % len(self.labels)]


class OtherBatches(Sequence[int]):
    """Sample indices in all batches but some, without a list of them.

    Args:
        indices: all sample indices; a range, so that a place is found at once.
        batch_size: indices per batch; the last batch may have fewer.
        finished: numbers of the batches that are left out, ascending.

    Example:
        >>> list(OtherBatches(range(7), 2, [0, 2]))
        [2, 3, 6]
    """

    def __init__(self, indices: Sequence[int], batch_size: int, finished: Sequence[int]):
        self.indices = indices
        self.batch_size = batch_size
        self.finished = frozenset(finished)
        # For each batch left out: how many others come before it.
        self._others_before = [number - place for place, number in enumerate(finished)]
        left_out = (indices[n * batch_size : (n + 1) * batch_size] for n in finished)
        self._length = len(indices) - sum(map(len, left_out))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[place] for place in range(*item.indices(len(self)))]
        if not 0 <= item < len(self):
            raise IndexError(item)
        batch, place = divmod(item, self.batch_size)
        batch += bisect_right(self._others_before, batch)
        return self.indices[batch * self.batch_size + place]

    def __contains__(self, index: object) -> bool:
        there = index in self.indices
        return there and self.indices.index(index) // self.batch_size not in self.finished


@dataclass(frozen=True)
class DealtBatches:
    """The batches of one process: every n-th request, where n is the number of processes.

    No request is dealt twice, and none is repeated to fill up a batch. Nothing is listed, so a billion
    requests take no memory. Lightning's own sampler lists the indices on each process, and keeps all batches.

    Args:
        requests: the requests of all processes.
        batch_size: requests per batch; the last batch may have fewer.
        rank: number of this process, from 0.
        num_processes: number of processes.

    Example:
        >>> [indices.tolist() for indices, _ in DealtBatches(LabelledIndices(range(7), [0]), 2, 1, 2)]
        [[1, 3], [5]]
    """

    requests: LabelledIndices
    batch_size: int
    rank: int = 0
    num_processes: int = 1

    @property
    def places(self) -> range:
        """Places of this process's requests."""
        return range(self.rank, len(self.requests), self.num_processes)

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields indices [B] and labels [B], int64."""
        for start in range(0, len(self.places), self.batch_size):
            pairs = [self.requests[place] for place in self.places[start : start + self.batch_size]]
            yield torch.tensor(pairs, dtype=torch.long).unbind(1)  # type: ignore[misc]


class GenerationRequests(pl.LightningDataModule):
    """Requests for the images of a dataset. With several devices, each process gets a part.

    Sample i has the label ``labels[(i // images_per_label) % len(labels)]``. Labels of a data set of prompts
    are numbers of prompts.

    Args:
        dataset: number of images, labels, and images per class.
        batch_size: samples per batch and device, at least 1.
    """

    def __init__(self, dataset: DatasetSettings, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self.requests = LabelledIndices(
            range(dataset.num_images), dataset.label_list, dataset.images_per_label
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

    def first(self, count: int, num_processes: int = 1) -> GenerationRequests:
        """The first requests: ``count``, or one per process if that is more, since none may be idle."""
        return self.only(self.requests.indices[: max(count, num_processes)])

    def without(self, finished: Collection[int], num_processes: int = 1) -> GenerationRequests:
        """The requests without completely finished batches: none, or at least one per process.

        Batches are kept whole. Matrix products of another size sum in another order, so other batches could
        change the last bit of an image.

        Args:
            finished: indices of finished samples.
            num_processes: number of processes that share the remaining requests.
        """
        indices, size = self.requests.indices, self.batch_size
        counts = Counter(indices.index(index) // size for index in finished if index in indices)
        whole = sorted(n for n, count in counts.items() if count == len(indices[n * size : (n + 1) * size]))
        missing = OtherBatches(indices, size, whole)
        while whole and 0 < len(missing) < num_processes:
            whole.pop()
            missing = OtherBatches(indices, size, whole)
        return self.only(missing) if whole else self

    @property
    def num_images(self) -> int:
        return len(self.requests)

    def predict_dataloader(self) -> DealtBatches:
        if self.trainer is None:
            return DealtBatches(self.requests, self.batch_size)
        return DealtBatches(self.requests, self.batch_size, self.trainer.global_rank, self.trainer.world_size)
