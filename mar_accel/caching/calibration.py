"""Calibration: a cache schedule for a target ratio of FLOPs, from the measured movement of features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mar_accel.caching.token import TokenCache
from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.state import DecodeState

# Bisection steps over the range of tolerances, on a log scale.
BISECTIONS = 12
LEAST_TOLERANCE, LARGEST_TOLERANCE = 1e-6, 2.0


class MovementRecorder(CachePolicy):
    """Computes everything and records how far the features of the token cache move at each step.

    It must be a cache policy, not an observer. It compares keys or values inside the pruning block, which
    a plain forward pass does not expose.

    Args:
        token: token cache that defines the block, the feature and the similarity.
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
        decoded = self.token.full_pass(state, step, positions, rows=state.batch_size)
        assert self.token.store is not None and self.token.store.feature is not None
        feature = self.token.store.feature
        old = feature if self._feature is None else self._feature
        similarity = self.token.similarities(feature, old, state.model.config.num_heads)
        self._steps.append((1 - similarity).clamp(min=0).cpu())
        self._feature = feature
        if step is state.plan.steps[-1]:
            self._batches.append(torch.stack(self._steps))
        return state.model.vectors(state.condition_of(step), decoded, positions)

    def distances(self) -> Tensor:
        """Distances [K, images, N] to the previous step: 1 − similarity, at least 0; 0 at step 0."""
        return torch.cat(self._batches, dim=1)

    def finish(self) -> None:
        self.token.finish()
        self._steps, self._feature = [], None


@dataclass(frozen=True)
class Schedule:
    """Cache schedule for one tolerance.

    Attributes:
        tolerance: distance up to which a token is reused.
        drift: sum of mean distances above which a step is a refresh; the threshold of AdaptiveRefresh.
        refreshes: indices of the AR steps that are refreshes.
        ratios: pairs (first AR step, share of the tokens that move by more than the tolerance).
    """

    tolerance: float
    drift: float
    refreshes: tuple[int, ...]
    ratios: tuple[tuple[int, float], ...]


def schedule_of(distances: Tensor, tolerance: float, drift_factor: float, warmup_steps: int) -> Schedule:
    """Compute refreshes and ratios for a tolerance.

    Args:
        distances: [K, images, N] from a :class:`MovementRecorder`.
        tolerance: distance up to which a token is reused.
        drift_factor: drift allowed between refreshes, in multiples of the tolerance.
        warmup_steps: steps 0 to this step (inclusive) are refreshes.
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
    """Reject a target ratio of FLOPs above the largest possible one."""
    if largest < wanted:
        raise ConfigError(
            f"calibrate.flops_ratio must be ≤ {largest:.2f} with these caches, got {wanted}; "
            "lower it or calibrate.warmup_steps, or add a cache."
        )


def least_tolerance(
    schedule: Callable[[float], Schedule], flops_ratio: Callable[[Schedule], float], wanted: float
) -> tuple[Schedule, float]:
    """Find the smallest tolerance that reaches a target ratio of FLOPs.

    Args:
        schedule: maps a tolerance to a schedule.
        flops_ratio: maps a schedule to the FLOPs without a cache divided by its own.
        wanted: target ratio, above 1.

    Returns:
        The schedule and its ratio.

    Raises:
        ConfigError: no tolerance reaches the target.
    """
    low, high = math.log(LEAST_TOLERANCE), math.log(LARGEST_TOLERANCE)
    best = schedule(LARGEST_TOLERANCE)
    best_ratio = flops_ratio(best)
    check_reached(best_ratio, wanted)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        candidate = schedule(math.exp(middle))
        reached = flops_ratio(candidate)
        if reached >= wanted:
            best, best_ratio, high = candidate, reached, middle
        else:
            low = middle
    return best, best_ratio
