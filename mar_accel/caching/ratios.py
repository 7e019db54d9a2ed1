"""Share of the tokens that a lazy step recomputes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mar_accel.caching.refresh import check_share
from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable

# Published table for 64 AR steps, as (first step, ratio): 1 for the first 20 steps, then decreasing.
PUBLISHED_RATIOS = ((0, 1.0), (20, 0.6), (21, 0.5), (25, 0.4), (30, 0.15), (35, 0.12), (40, 0.05))
PUBLISHED_STEPS = 64
MODES = ("progress", "step", "tokens")


class Ratios(Readable):
    """Share of the sequence that a lazy step recomputes, from a table over AR steps.

    Args:
        table: pairs (first step, ratio) with ascending first steps from 0, or one ratio for all steps.
            Ratios are in 0..1.
        steps: number of AR steps that the table is made for, at least 1.
        by: row that a step k of K reads.
            "step": row k.
            "progress": row k/K · steps, for any number of steps.
            "tokens": row at which a cosine schedule of ``steps`` steps has decoded the same share of tokens,
            for uneven step sizes.

    Example:
        Ratios([(0, 1.0), (20, 0.5)], steps=64, by="step")
    """

    def __init__(self, table: float | Sequence[Sequence[float]], steps: int, by: str):
        if isinstance(table, int | float):
            table = ((0, table),)
        self.table = tuple((int(row[0]), float(row[1])) for row in table)
        self.firsts = [first for first, _ in self.table]
        self.values = [value for _, value in self.table]
        if not table or self.firsts[0] != 0 or sorted(set(self.firsts)) != self.firsts:
            raise ConfigError(
                "cache.token.ratios must be pairs [first step, ratio] with ascending first steps from 0, "
                f"got the first steps {self.firsts}."
            )
        for value in self.values:
            check_share("cache.token.ratios", value)
        if steps < 1:
            raise ConfigError(f"cache.token.ratio_steps must be ≥ 1, got {steps}.")
        if by not in MODES:
            raise ConfigError(f"cache.token.ratio_by must be one of {', '.join(MODES)}, got {by}.")
        self.steps = steps
        self.by = by

    def at(self, plan: Plan, step: ARStep) -> float:
        """Ratio of an AR step, 0..1."""
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
