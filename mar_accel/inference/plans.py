"""The plans of the samples of a run: one, or several where parts of images are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.inference.build import checked_plan
from mar_accel.inference.inpainting import unknown_tokens
from mar_accel.models.backbone import BackboneConfig
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler


@dataclass(frozen=True)
class Plans:
    """Plans of a sampler on a model's grid, by sample index.

    Whole images have one plan. Inpainted ones have one for each number of unknown tokens per stage.

    Attributes:
        architecture: of the model.
        sampler, cache: with the model's defaults; the cache must fit every plan.
        seed: of the run, at least 0.
        masks: bool [M, H, W], true where images are to be made; sample i has mask i mod M. None: everywhere.

    Example:
        >>> Plans(model.config, sampler, NoCache(), seed=0).counted(100)  # [(Plan(...), 100)]
    """

    architecture: BackboneConfig
    sampler: Sampler
    cache: CachePolicy
    seed: int
    masks: Tensor | None = None

    @cached_property
    def first(self) -> Plan:
        """The plan of sample 0; of all samples where images are whole.

        Raises:
            ConfigError: sampler, cache and model cannot be combined.
        """
        return self._plan(None) if self.masks is None else self.of([0])[0]

    def of(self, indices: Sequence[int]) -> list[Plan]:
        """The plan of each of some samples."""
        if self.masks is None:
            return [self.first] * len(indices)
        keys = self._keys(indices)
        plans = {key: self._plan(key) for key in dict.fromkeys(keys)}
        return [plans[key] for key in keys]

    def counted(self, num_images: int) -> list[tuple[Plan, int]]:
        """The different plans of the samples 0 to N − 1, each with the number of samples that have it."""
        if self.masks is None:
            return [(self.first, num_images)]
        return [(self._plan(key), number) for key, number in Counter(self._keys(range(num_images))).items()]

    def places(self, indices: Sequence[int]) -> list[tuple[Plan, list[int]]]:
        """The different plans of a batch, each with the places in the batch that have it."""
        if self.masks is None:
            return [(self.first, list(range(len(indices))))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, key in enumerate(self._keys(indices)):
            groups.setdefault(key, []).append(place)
        return [(self._plan(key), places) for key, places in groups.items()]

    def check(self) -> None:
        """Raise ConfigError if a mask has no possible plan; it names the mask."""
        assert self.masks is not None
        for index in range(len(self.masks)):
            try:
                self.of([index])
            except ConfigError as error:
                raise ConfigError(f"with mask {index} (of those from 0), {error}") from error

    def require_one(self, num_images: int, what: str) -> None:
        """Raise ConfigError if the samples 0 to N − 1 have several plans, for ``what`` needs a single one."""
        number = len(self.counted(num_images))
        if number > 1:
            raise ConfigError(
                f"dataset.mask leads to {number} different plans, but {what} needs the same AR steps for all "
                "images; use one mask."
            )

    def _plan(self, unknown: tuple[int, ...] | None) -> Plan:
        return checked_plan(self.architecture, self.sampler, self.cache, self.seed, unknown)

    def _keys(self, indices: Sequence[int]) -> list[tuple[int, ...]]:
        """The number of unknown tokens in each stage, for each of some samples."""
        assert self.masks is not None
        grid = self.architecture.grid
        rows = zip(indices, unknown_tokens(self.masks, indices, grid), strict=True)
        return [self.sampler.unknown_per_stage(grid, self.seed, index, row) for index, row in rows]
