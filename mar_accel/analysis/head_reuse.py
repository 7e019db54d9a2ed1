"""What reuse in each part of a diffusion chain does to the finished token.

LazyMAR's head cache (arXiv:2503.12450) computes every period-th timestep of a chain and reuses in between.
Here the chain of a token is run again, under the same noise, with reuse between two neighbouring refreshes
alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from mar_accel.caching.head import HeadCache, HeadCacheDenoiser
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import DiffusionSchedule
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.solvers import Solver

ALL = "all"


class ReuseOnlyAt(HeadCache):
    """Reuses at some timesteps of a chain and computes all others."""

    def __init__(self, cache: HeadCache, reused: Collection[int]):
        super().__init__(cache.period, sorted(cache.skipped_blocks), cache.compute_above)
        self.reused = frozenset(reused)

    def refreshes(self, index: int, num_steps: int) -> bool:
        return index not in self.reused


def stretches(cache: HeadCache, num_steps: int) -> list[range]:
    """The timestep indices between neighbouring refreshes of a chain of T, from its end (0) on."""
    refreshed = [index for index in range(num_steps) if cache.refreshes(index, num_steps)]
    between = [range(low + 1, high) for low, high in pairwise(refreshed)]
    return [indices for indices in between if indices]


@dataclass(frozen=True)
class Chain:
    """What a chain is run from.

    Attributes: as the arguments of :meth:`mar_accel.sampling.policy.CachePolicy.denoiser`.
    """

    net: AdaLNMLP
    z: Tensor
    time_embeddings: Tensor
    step: ARStep
    guided: Sequence[bool]


@dataclass
class HeadReuse:
    """Mean squared change of finished tokens, by chain length and stretch.

    Args:
        cache: whose refreshes bound the stretches.
        every: AR steps from one that is probed to the next.

    Attributes:
        chain: the one that is sampled next.
    """

    cache: HeadCache
    every: int
    chain: Chain | None = None
    _totals: dict[tuple[int, str | range], float] = field(default_factory=dict)
    _values: dict[int, int] = field(default_factory=dict)
    _timesteps: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def probe(
        self, solver: Solver, exact: Tensor, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> None:
        """Run the chain again for each stretch; ``exact`` [n, C] is what it gives without reuse."""
        chain, num_steps = self.chain, schedule.num_steps
        if chain is None or chain.step.index % self.every:
            return
        parts = stretches(self.cache, num_steps)
        caches: dict[str | range, HeadCache] = {part: ReuseOnlyAt(self.cache, part) for part in parts}
        caches[ALL] = self.cache
        for name, cache in caches.items():
            denoise = HeadCacheDenoiser(
                cache, chain.net, chain.z, chain.time_embeddings, chain.step.guidance, chain.guided
            )
            change = solver.sample(denoise, noise, schedule, temperature) - exact
            key = (num_steps, name)
            self._totals[key] = self._totals.get(key, 0.0) + float(change.double().square().sum())
        self._values[num_steps] = self._values.get(num_steps, 0) + exact.numel()
        self._timesteps[num_steps] = schedule.timesteps

    def rows(self) -> list[dict[str, float | int | str]]:
        """One row per chain length and stretch, and one (``all``) with every stretch reused."""
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


class ProbingSolver:
    """A head solver whose chains are probed after they were sampled; the tokens are the solver's own."""

    visits_every_timestep = True

    def __init__(self, solver: Solver, reuse: HeadReuse):
        self.solver, self.reuse = solver, reuse

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        tokens = self.solver.sample(denoise, noise, schedule, temperature)
        self.reuse.probe(self.solver, tokens, noise, schedule, temperature)
        return tokens
