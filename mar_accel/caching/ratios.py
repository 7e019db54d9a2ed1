"""How many tokens a lazy step recomputes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mar_accel.caching.refresh import check_share
from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable

# The published table for 64 AR steps, as (first step, ratio): 1 for the first 20 steps, then falling.
PUBLISHED_RATIOS = ((0, 1.0), (20, 0.6), (21, 0.5), (25, 0.4), (30, 0.15), (35, 0.12), (40, 0.05))
PUBLISHED_STEPS = 64
MODES = ("progress", "step", "tokens")


class Ratios(Readable):
    """The share of the sequence that a lazy step recomputes, from a table over AR steps.

    Args:
        table: pairs (first step, ratio) with growing steps from 0, or one ratio for all steps; ratios 0..1.
        steps: the number of AR steps that the table was made for, at least 1.
        by: where a step is looked up: "step" at its index k; "progress" at k/K · steps, which fits any
            number of steps; "tokens" where a cosine schedule of ``steps`` AR steps has decoded as many
            tokens, which fits samplers with uneven steps.
    """

    def __init__(self, table: float | Sequence[Sequence[float]], steps: int, by: str):
        if isinstance(table, int | float):
            table = ((0, table),)
        self.table = tuple((int(row[0]), float(row[1])) for row in table)
        self.firsts = [first for first, _ in self.table]
        self.values = [value for _, value in self.table]
        if not table or self.firsts[0] != 0 or sorted(set(self.firsts)) != self.firsts:
            raise ConfigError(
                f"cache.token.ratios starts at the AR steps {self.firsts}; give pairs [first step, ratio] "
                "with growing first steps from 0."
            )
        for value in self.values:
            check_share("cache.token.ratios", value)
        if steps < 1:
            raise ConfigError(f"cache.token.ratio_steps={steps} is too small; give at least 1.")
        if by not in MODES:
            raise ConfigError(f"cache.token.ratio_by={by} is unknown; choose one of {', '.join(MODES)}.")
        self.steps = steps
        self.by = by

    def at(self, plan: Plan, step: ARStep) -> float:
        """The ratio of an AR step."""
        position = self._position(plan, step)
        return next(
            value
            for first, value in zip(reversed(self.firsts), reversed(self.values), strict=True)
            if first <= position
        )

    def _position(self, plan: Plan, step: ARStep) -> int:
        if self.by == "step":
            return step.index
        if self.by == "progress":
            return step.index * self.steps // len(plan.steps)
        # The cosine schedule has decoded 1 − cos(π/2 · k/steps) before its step k.
        remaining = 1 - step.start / plan.num_tokens
        return int(self.steps * math.acos(remaining) * 2 / math.pi)
