"""When a cache computes everything anew: at fixed steps, or at listed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable


class Refresh(Readable):
    """Decides which AR steps are refreshed; step 0 always is, because nothing is kept before it.

    The policy asks ``due`` once per AR step, in turn, after ``start``.
    """

    # Whether ``observe`` is to be told the similarities that the token cache measures.
    needs_similarity = False

    def check(self, plan: Plan) -> None:
        """Raise ConfigError where the schedule does not fit the plan."""

    def start(self, plan: Plan, both_branches: bool = False) -> None:
        """Prepare for a new batch.

        Args:
            both_branches: whether lazy steps compute both branches of guidance, from what is kept of both.
                Else they compute the conditional branch and add the difference kept at the refresh.
        """
        raise NotImplementedError

    def due(self, step: ARStep) -> bool:
        """Whether ``step`` is a refresh."""
        raise NotImplementedError

    def horizon(self, step: ARStep) -> int:
        """For a refresh: where in the decode order the last lazy step stops that may follow it.

        ``step.stop`` means that no lazy step follows, so nothing need be kept.
        """
        raise NotImplementedError

    def observe(self, step: ARStep, similarity: Tensor) -> None:
        """Similarities [B, N] of all tokens' features between ``step``, a lazy one, and the step before."""

    def finish(self) -> None:
        """The batch is done."""


def lacks_a_branch(plan: Plan, step: ARStep, last: int, both_branches: bool) -> bool:
    """Whether a step is guided, but nothing is kept of the unconditional branch for it.

    The difference of the branches is kept at a guided refresh. Both branches are kept for as long as all
    steps since the refresh are guided.

    Args:
        last: index of the last refresh.
        both_branches: as in :meth:`Refresh.start`.
    """
    if not step.guided:
        return False
    since = plan.steps[last : step.index if both_branches else last + 1]
    return not all(earlier.guided for earlier in since)


class StaticRefresh(Refresh):
    """A schedule that follows from the plan alone. A schedule of one's own defines ``wants``.

    Besides what it wants, the first step is a refresh. So is the first guided step after a refresh without
    guidance, which left nothing of the unconditional branch.
    """

    _plan: Plan | None = None
    _due: tuple[bool, ...] = ()

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        """Whether ``step`` is to be a refresh, if step ``last`` was the last one."""
        raise NotImplementedError

    def start(self, plan: Plan, both_branches: bool = False) -> None:
        due, last = [True], 0
        for step in plan.steps[1:]:
            due.append(self.wants(plan, step, last) or lacks_a_branch(plan, step, last, both_branches))
            last = step.index if due[-1] else last
        self._plan, self._due = plan, tuple(due)

    def due(self, step: ARStep) -> bool:
        return self._due[step.index]

    def horizon(self, step: ARStep) -> int:
        assert self._plan is not None
        stop = step.stop
        for later in self._plan.steps[step.index + 1 :]:
            if self._due[later.index]:
                break
            stop = later.stop
        return stop


@dataclass(frozen=True)
class RefreshBounds:
    """What forces a refresh, whatever else decides.

    Attributes:
        warmup_steps: the steps before this one, and this one, are refreshes; at least 0.
        period: at most so many steps from a refresh to the next, at least 1.
        max_new_share: share of all tokens, 0..1, that may be decoded after a refresh before the next one;
            None for no bound.
    """

    warmup_steps: int
    period: int
    max_new_share: float | None

    def forced(self, plan: Plan, step: ARStep, last: int) -> bool:
        """Whether ``step`` has to be a refresh, given the index of the last one."""
        if step.index <= self.warmup_steps or step.index - last >= self.period:
            return True
        if self.max_new_share is None:
            return False
        return step.start - plan.steps[last].start >= self.max_new_share * plan.num_tokens


class FixedRefresh(StaticRefresh):
    """LazyMAR's schedule (arXiv:2503.12450, section 3): the first steps, then every ``period``-th.

    Without ``max_new_share``, step k is one where k < warmup_steps or (k − warmup_steps) mod period = 0.

    Args:
        warmup_steps: steps at the beginning that are all refreshes, at least 0; 5 as published.
        period: steps from a refresh to the next, at least 1; 9 as published. 1 turns the caches off.
        max_new_share: refresh also where at least this share of all tokens was decoded since the last
            refresh; 0..1, or None for never, as published. The published 64 steps reach 0.223, so a quarter
            changes nothing there, but samplers with few, large steps (GtR) refresh when as much has become
            known as between two published refreshes.

    The period counts from the last refresh, whatever made it one.
    """

    def __init__(self, warmup_steps: int = 5, period: int = 9, max_new_share: float | None = 0.25):
        check_counts(warmup_steps, "period", period)
        check_share("cache.refresh.max_new_share", max_new_share)
        self.warmup_steps = warmup_steps
        self.period = period
        self.max_new_share = max_new_share

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        bounds = RefreshBounds(self.warmup_steps, self.period, self.max_new_share)
        return bounds.forced(plan, step, last)


class ListedRefresh(StaticRefresh):
    """Refreshes at the AR steps that are listed; what ``mar_accel.calibrate`` writes.

    Args:
        steps: indices of AR steps, 0 among them.
    """

    def __init__(self, steps: Sequence[int]):
        self.steps = frozenset(steps)
        if 0 not in self.steps or min(self.steps) < 0:
            raise ConfigError(
                f"cache.refresh.steps={sorted(self.steps)} must hold 0, before which nothing is kept, "
                "and no negative step; add 0 and remove those below it."
            )

    def check(self, plan: Plan) -> None:
        if max(self.steps) >= len(plan.steps):
            raise ConfigError(
                f"cache.refresh.steps has step {max(self.steps)}, but the sampler takes {len(plan.steps)} AR "
                f"steps (0 to {len(plan.steps) - 1}); calibrate the cache for this sampler."
            )

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        return step.index in self.steps


def check_counts(warmup_steps: int, key: str, period: int) -> None:
    """Refuse numbers of steps that mean nothing."""
    if warmup_steps < 0:
        raise ConfigError(f"cache.refresh.warmup_steps={warmup_steps} is negative; give 0 or more.")
    if period < 1:
        raise ConfigError(f"cache.refresh.{key}={period} is too small; give 1 (always refresh) or more.")


def check_share(key: str, value: float | None) -> None:
    """Refuse a share outside 0..1."""
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"{key}={value} must be a share; choose 0 to 1.")
