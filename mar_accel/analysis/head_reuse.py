"""Effect of reuse in each part of a diffusion chain on the finished token.

LazyMAR's head cache (arXiv:2503.12450) computes every period-th timestep of a chain.
It reuses results in between.
Here the chain of a token runs again with the same noise.
Results are reused only between two neighbouring refreshes.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from torch import Tensor

from mar_accel.caching.head import HeadCache, HeadCacheDenoiser
from mar_accel.sampling.observer import Chain, Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState

ALL = "all"


class ReuseOnlyAt(HeadCache):
    """Reuses results at the given timesteps of a chain and computes all others.

    Args:
        cache: the head cache whose settings are taken.
        reused: timestep indices at which results are reused.
    """

    def __init__(self, cache: HeadCache, reused: Collection[int]):
        super().__init__(cache.period, sorted(cache.skipped_blocks), cache.compute_above)
        self.reused = frozenset(reused)

    def refreshes(self, index: int, num_steps: int) -> bool:
        return index not in self.reused


def stretches(cache: HeadCache, num_steps: int) -> list[range]:
    """Ranges of timestep indices between neighbouring refreshes, from the end of the chain (0).

    Args:
        cache: the head cache that decides the refreshes.
        num_steps: length T of the chain.
    """
    refreshed = [index for index in range(num_steps) if cache.refreshes(index, num_steps)]
    between = [range(low + 1, high) for low, high in pairwise(refreshed)]
    return [indices for indices in between if indices]


class HeadReuse(Observer):
    """Mean squared change of finished tokens by reuse, for each chain length and stretch.

    A stretch is a range of timesteps between two neighbouring refreshes.

    Args:
        cache: the head cache that defines the stretches.
        every: probe one of every ``every`` AR steps.
    """

    def __init__(self, cache: HeadCache, every: int):
        self.cache = cache
        self.every = every
        self._totals: dict[tuple[int, str | range], float] = {}
        self._values: dict[int, int] = {}
        self._timesteps: dict[int, tuple[float, ...]] = {}

    def chain_end(self, state: DecodeState, step: ARStep, chain: Chain, tokens: Tensor) -> None:
        """Run the chain again for each stretch.

        Args:
            tokens: result of the chain without reuse [n, C].
        """
        if step.index % self.every:
            return
        num_steps = chain.schedule.num_steps
        parts = stretches(self.cache, num_steps)
        caches: dict[str | range, HeadCache] = {part: ReuseOnlyAt(self.cache, part) for part in parts}
        caches[ALL] = self.cache
        for name, cache in caches.items():
            denoise = HeadCacheDenoiser(
                cache, chain.net, chain.z, chain.time_embeddings, step.guidance, chain.guided
            )
            change = chain.run(denoise) - tokens
            key = (num_steps, name)
            self._totals[key] = self._totals.get(key, 0.0) + float(change.double().square().sum())
        self._values[num_steps] = self._values.get(num_steps, 0) + tokens.numel()
        self._timesteps[num_steps] = chain.schedule.timesteps

    def rows(self) -> list[dict[str, float | int | str]]:
        """One row per chain length and stretch, and one row ``all`` with reuse in all stretches."""
        rows: list[dict[str, float | int | str]] = []
        for (num_steps, part), total in self._totals.items():
            indices = range(num_steps) if isinstance(part, str) else part
            timesteps = self._timesteps[num_steps]
            rows.append(
                {
                    "diffusion_steps": num_steps,
                    "part": ALL if isinstance(part, str) else "stretch",
                    "first_timestep": timesteps[indices[0]],
                    "last_timestep": timesteps[indices[-1]],
                    "mse": total / self._values[num_steps],
                }
            )
        return rows
