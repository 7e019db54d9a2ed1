"""Choosing what is recomputed, and when, from how far the features of a model move: the budget mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.caching.token import TokenCache
from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy, DecodeState

# Halvings of the range of tolerances, on a logarithmic scale.
BISECTIONS = 12
LEAST_TOLERANCE, LARGEST_TOLERANCE = 1e-6, 2.0


class MovementRecorder(CachePolicy):
    """Computes everything and records how far the token cache's features move from step to step.

    It is a cache policy and no observer because a plain pass does not give what it compares: the keys and
    values inside the pruning block.

    Args:
        token: says which feature of which block is compared, and how.
    """

    def __init__(self, token: TokenCache):
        self.token = token
        self._batches: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._feature: Tensor | None = None

    def start(self, state: DecodeState) -> None:
        self._steps, self._feature = [], None

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        positions = state.predicted(step)
        output = self.token.full_pass(state, step, positions, rows=state.batch_size)
        assert self.token.store is not None and self.token.store.feature is not None
        feature = self.token.store.feature
        old = feature if self._feature is None else self._feature
        similarity = self.token.similarities(feature, old, state.model.config.num_heads)
        self._steps.append((1 - similarity).clamp(min=0).cpu())
        self._feature = feature
        if step is state.plan.steps[-1]:
            self._batches.append(torch.stack(self._steps))
        return state.model.conditioning_vectors(
            output, positions.repeat(output.shape[0] // state.batch_size, 1)
        )

    def distances(self) -> Tensor:
        """1 − similarity to the step before [K, images, N]; zero at step 0."""
        return torch.cat(self._batches, dim=1)

    def finish(self) -> None:
        self.token.finish()
        self._steps, self._feature = [], None


@dataclass(frozen=True)
class Schedule:
    """What one tolerance asks for.

    Attributes:
        tolerance: distance up to which a token is not recomputed.
        drift: sum of the mean distances above which everything is; the threshold of AdaptiveRefresh.
        refreshes: AR steps that are refreshed.
        ratios: pairs (first AR step, share of the tokens that move by more than the tolerance).
    """

    tolerance: float
    drift: float
    refreshes: tuple[int, ...]
    ratios: tuple[tuple[int, float], ...]


def schedule_of(distances: Tensor, tolerance: float, drift_factor: float, warmup_steps: int) -> Schedule:
    """Refreshes and ratios of a tolerance.

    Args:
        distances: [K, images, N] of a :class:`MovementRecorder`.
        drift_factor: drift that is allowed between refreshes, in tolerances.
        warmup_steps: the steps before this one, and this one, are refreshes.
    """
    mean = distances.mean(dim=(1, 2)).tolist()
    share = (distances > tolerance).double().mean(dim=(1, 2)).tolist()
    limit, drift = drift_factor * tolerance, 0.0
    refreshes: list[int] = []
    ratios: list[tuple[int, float]] = []
    for k in range(len(mean)):
        if k <= warmup_steps or drift > limit:
            refreshes.append(k)
            drift = 0.0
        else:
            drift += mean[k]
        ratio = math.ceil(100 * share[k]) / 100 if k else 1.0
        if not ratios or ratios[-1][1] != ratio:
            ratios.append((k, ratio))
    return Schedule(tolerance, limit, tuple(refreshes), tuple(ratios))


def check_reached(largest: float, wanted: float) -> None:
    """Refuse a speedup above the largest that a cache can give."""
    if largest < wanted:
        raise ConfigError(
            f"calibrate.speedup={wanted:g} cannot be reached with these caches, which give at most "
            f"{largest:.2f}; ask for less, lower calibrate.warmup_steps, or add a cache."
        )


def least_tolerance(
    schedule: Callable[[float], Schedule], speedup: Callable[[Schedule], float], wanted: float
) -> tuple[Schedule, float]:
    """The mildest schedule that is fast enough, and how fast it is.

    Args:
        schedule: from tolerance to schedule. speedup: of a schedule. wanted: the least speedup, above 1.

    Raises:
        ConfigError: no tolerance is fast enough.
    """
    low, high = math.log(LEAST_TOLERANCE), math.log(LARGEST_TOLERANCE)
    best = schedule(LARGEST_TOLERANCE)
    best_speedup = speedup(best)
    check_reached(best_speedup, wanted)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        candidate = schedule(math.exp(middle))
        reached = speedup(candidate)
        if reached >= wanted:
            best, best_speedup, high = candidate, reached, middle
        else:
            low = middle
    return best, best_speedup
