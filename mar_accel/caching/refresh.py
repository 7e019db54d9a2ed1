"""Refresh schedules: the AR steps at which a cache recomputes everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.parts import is_flag, wrong_return
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable

KEY = "cache.refresh"
# What lazy steps take of the unconditional branch from the caches:
# "difference": they compute the conditional branch and add the difference that the last refresh kept.
# "both": they compute both branches with caches of both.
# "shared": the caches do not depend on the branch.
Branches = Literal["difference", "both", "shared"]


class Refresh(Readable, ABC):
    """Decides which AR steps are refreshes. Step 0 always is, because the cache is empty.

    The policy calls ``start`` once per batch, then ``due`` once per AR step, in order.
    """

    # Whether the schedule needs the token cache's similarities in ``observe``. It then decides for a whole
    # batch at once, so an image depends on its batch.
    needs_similarity = False

    def check(self, plan: Plan) -> None:
        """Raise ConfigError if the schedule does not fit the plan."""

    @abstractmethod
    def start(self, plan: Plan, branches: Branches = "difference") -> None:
        """Prepare for a new batch.

        Args:
            plan: the AR steps.
            branches: "difference", "both" or "shared": what lazy steps need of the unconditional branch.
        """
        raise NotImplementedError

    @abstractmethod
    def due(self, step: ARStep) -> bool:
        """Whether ``step`` is a refresh."""
        raise NotImplementedError

    @abstractmethod
    def horizon(self, step: ARStep) -> int:
        """End (in the decode order) of the last lazy step that may follow the refresh ``step``.

        ``step.stop`` means that no lazy step follows, so the cache keeps nothing.
        """
        raise NotImplementedError

    def observe(self, step: ARStep, similarity: Tensor) -> None:
        """Receive the similarities [B, N] of the token features at a lazy step to the previous step."""

    def finish(self) -> None:
        """The batch has finished."""


def lacks_a_branch(plan: Plan, step: ARStep, last: int, branches: Branches) -> bool:
    """Whether a guided step has no cache of the unconditional branch.

    A guided refresh keeps the difference of the branches. Caches of both branches stay valid as long as
    all steps since the refresh are guided.

    Args:
        plan: the AR steps.
        step: the step to check.
        last: index of the last refresh.
        branches: as in :meth:`Refresh.start`.
    """
    if not step.guided or branches == "shared":
        return False
    since = plan.steps[last : step.index if branches == "both" else last + 1]
    return not all(earlier.guided for earlier in since)


class StaticRefresh(Refresh):
    """A schedule that depends only on the plan. A custom schedule defines ``wants``.

    Two kinds of steps are always refreshes: the first step, and a guided step without a cache of the
    unconditional branch.

    Example:
        class EveryTenth(StaticRefresh):
            def wants(self, plan, step, last):
                return step.index % 10 == 0
    """

    _plan: Plan | None = None
    _due: tuple[bool, ...] = ()

    @abstractmethod
    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        """Whether ``step`` should be a refresh, if ``last`` is the index of the last refresh."""
        raise NotImplementedError

    def start(self, plan: Plan, branches: Branches = "difference") -> None:
        due, last = [True], 0
        for step in plan.steps[1:]:
            wanted = self.wants(plan, step, last)
            if not is_flag(wanted):
                where = f" at AR step {step.index}"
                raise wrong_return(KEY, self, "wants", "True or False", wanted, where)
            due.append(bool(wanted) or lacks_a_branch(plan, step, last, branches))
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
    """Bounds that force a refresh.

    Attributes:
        warmup_steps: steps 0 to this step (inclusive) are refreshes; at least 0.
        period: maximum number of steps from one refresh to the next, at least 1.
        max_new_share: share of all tokens, 0..1. A refresh is forced if this share was decoded since the
            start of the last one. None: no bound.
    """

    warmup_steps: int
    period: int
    max_new_share: float | None

    def forced(self, plan: Plan, step: ARStep, last: int) -> bool:
        """Whether ``step`` must be a refresh, if ``last`` is the index of the last refresh."""
        if step.index <= self.warmup_steps or step.index - last >= self.period:
            return True
        if self.max_new_share is None:
            return False
        return step.start - plan.steps[last].start >= self.max_new_share * plan.num_tokens


class FixedRefresh(StaticRefresh):
    """LazyMAR's schedule (arXiv:2503.12450, section 3): the first steps, then every ``period``-th step.

    Without ``max_new_share``, step k is a refresh if k < warmup_steps or (k − warmup_steps) mod period = 0.
    The period always counts from the last refresh, for whatever reason it was due.

    Args:
        warmup_steps: number of first steps that are all refreshes, at least 0; 5 as published.
        period: steps from one refresh to the next, at least 1; 9 as published. 1 disables the caches.
        max_new_share: also refresh if at least this share of all tokens was decoded since the last refresh,
            0..1. None: never, as published.
            The published 64 steps reach 0.223, so 0.25 changes nothing there.
            Samplers with few large steps (GtR) then refresh after a similar share of tokens.

    Example:
        FixedRefresh(warmup_steps=3, period=6)
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
    """Refreshes at listed AR steps. ``mar_accel.calibrate`` writes such a list.

    Args:
        steps: indices of AR steps, at least 0. The list must contain 0.
        num_steps: the number of AR steps that the list is made for; a sampler with another one is refused,
            since its last steps would have no refresh. None: any number.

    Example:
        ListedRefresh([0, 1, 2, 8, 20, 40], num_steps=64)
    """

    def __init__(self, steps: Sequence[int], num_steps: int | None = None):
        self.steps, self.num_steps = frozenset(steps), num_steps
        if 0 not in self.steps or min(self.steps) < 0:
            raise ConfigError(
                "cache.refresh.steps must be AR steps ≥ 0 and include 0 (the cache is empty before it), "
                f"got {sorted(self.steps)}."
            )

    def check(self, plan: Plan) -> None:
        if self.num_steps not in (None, len(plan.steps)):
            raise ConfigError(
                f"cache.refresh.steps is made for {self.num_steps} AR steps (cache.refresh.num_steps), and "
                f"this sampler has {len(plan.steps)}; calibrate the cache for it."
            )
        if max(self.steps) >= len(plan.steps):
            raise ConfigError(
                f"cache.refresh.steps must be between 0 and {len(plan.steps) - 1} for this sampler, "
                f"got {max(self.steps)}; calibrate the cache for it."
            )

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        return step.index in self.steps


def check_counts(warmup_steps: int, key: str, period: int) -> None:
    """Reject numbers of steps that are out of range."""
    if warmup_steps < 0:
        raise ConfigError(f"cache.refresh.warmup_steps must be ≥ 0, got {warmup_steps}.")
    if period < 1:
        raise ConfigError(f"cache.refresh.{key} must be ≥ 1 (1 refreshes always), got {period}.")


def check_share(key: str, value: float | None) -> None:
    """Reject a share outside 0..1."""
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"{key} must be between 0 and 1, got {value}.")
