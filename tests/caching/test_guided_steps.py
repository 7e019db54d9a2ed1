"""Caches where some AR steps are guided and others are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mar_accel.caching.adaptive import AdaptiveRefresh
from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.memory import cache_memory
from mar_accel.caching.refresh import Branches, FixedRefresh, ListedRefresh, Refresh, StaticRefresh
from mar_accel.caching.token import TokenCache
from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling.guidance import GuidanceSchedule, Progress
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps

from .conftest import EAGER_REFRESH, SHORT

# With EAGER_REFRESH, steps 0 to 3, 6 and 9 are refreshes.
INTERVAL = "sampler/guidance_schedule=interval"
OVER, LOW, HIGH = (f"sampler.guidance_schedule.{key}" for key in ("over", "low", "high"))
INTERVALS = {
    "from a lazy step on": [INTERVAL, f"{OVER}=ar_time", f"{LOW}=0", f"{HIGH}=0.4"],
    "up to a lazy step": [INTERVAL, f"{OVER}=ar_time", f"{LOW}=0.5", f"{HIGH}=1"],
    "of timesteps": [INTERVAL, f"{OVER}=timestep", f"{LOW}=200", f"{HIGH}=600"],
}
CACHES = ["token", "condition", "head", "lazymar"]


class Steps(GuidanceSchedule):
    def __init__(self, *guided: int):
        self.guided = guided

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return guidance_scale if progress.index in self.guided else 1.0


def _plan(num_iter: int, *guided: int) -> Plan:
    sampler = Sampler(step_sizes=CosineSteps(num_iter), guidance_schedule=Steps(*guided), guidance_scale=2.0)
    return sampler.plan((8, 8))


def _refreshes(refresh: Refresh, plan: Plan, branches: Branches) -> list[int]:
    refresh.start(plan, branches)
    return [step.index for step in plan.steps if refresh.due(step)]


SCHEDULES = [
    lambda: FixedRefresh(0, 5, None),
    lambda: ListedRefresh([0, 5, 10]),
    lambda: AdaptiveRefresh(1e9, 0, 5, None),
]


@pytest.mark.parametrize("branches", ["difference", "both"])
@pytest.mark.parametrize("make", SCHEDULES)
def test_the_first_guided_step_after_an_unguided_refresh_is_one(
    make: Callable[[], Refresh], branches: Branches
) -> None:
    refresh = make()
    due = _refreshes(refresh, _plan(12, 7, 8, 9), branches)
    # A period counts from the last refresh, a list does not.
    assert due == ([0, 5, 7, 10] if isinstance(refresh, ListedRefresh) else [0, 5, 7])
    plan = _plan(12, 7, 8, 9)
    refresh.start(plan, branches)
    assert refresh.due(plan.steps[0]) and refresh.horizon(plan.steps[0]) == plan.steps[4].stop
    # Where the refresh is guided, nothing is forced.
    assert _refreshes(refresh, _plan(12, *range(5, 10)), branches) == [0, 5, 10]


def test_what_is_kept_of_both_branches_does_not_outlive_an_unguided_step() -> None:
    """The difference of the branches does: it was computed for all later positions at the refresh."""
    plan = _plan(12, 0, 1, 3)
    assert _refreshes(FixedRefresh(0, 12, None), plan, "difference") == [0]
    assert _refreshes(FixedRefresh(0, 12, None), plan, "both") == [0, 3]
    # What does not depend on the branch is valid in any case.
    assert _refreshes(FixedRefresh(0, 12, None), _plan(12, 7, 8), "shared") == [0]


def test_the_difference_is_kept_for_guided_steps_alone() -> None:
    plan = _plan(12, 0, 1, 3)
    steps, end = plan.steps, plan.num_tokens
    assert ConditionCache.stop(plan, steps[0], end) == steps[3].stop
    assert ConditionCache.stop(plan, steps[0], steps[2].stop) == steps[1].stop
    assert ConditionCache.stop(plan, steps[2], end) == steps[2].stop


class EverySecond(StaticRefresh):
    """A refresh schedule of one's own."""

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        return step.index - last == 2


def test_a_refresh_of_ones_own_is_one_method(run: Callable[..., Tensor]) -> None:
    policy = LazyMAR(EverySecond(), TokenCache(), ConditionCache())
    assert _refreshes(policy.refresh, _plan(6, *range(6)), "difference") == [0, 2, 4]
    assert not torch.equal(run(cache=policy), run("cache=none"))


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("cache", [*CACHES, "token+head", "condition+head"])
def test_caches_are_near_no_cache(run: Callable[..., Tensor], cache: str, interval: str) -> None:
    name, _, more = cache.partition("+")
    added = [f"cache.{more}=periodic", "cache.head.period_for=9"] if more else []
    overrides = INTERVALS[interval]
    exact = run("cache=none", *overrides)
    cached = run(f"cache={name}", *added, *EAGER_REFRESH, *overrides)
    assert 1e-6 < float((cached - exact).norm() / exact.norm()) < 1
    never = [
        "cache.refresh.period=1",
        *(["cache.head.period=1"] if "head" in cache or name == "lazymar" else []),
    ]
    same = run(f"cache={name}", *added, *never, *overrides)
    assert float((same - exact).norm() / exact.norm()) <= 1e-6


def test_alternating_guidance_works_with_every_cache(run: Callable[..., Tensor], model: MAR) -> None:
    for parts in ((TokenCache(),), (TokenCache(), ConditionCache()), (None, ConditionCache())):
        policy, sampler = LazyMAR(FixedRefresh(2, 6, None), *parts), _sampler()
        sampler.guidance_schedule = Steps(0, 2, 3, 5, 8, 9)
        count = count_flops(model.config, sampler, policy)
        sampler.guidance_schedule = Steps(*range(12))
        assert count.total < count_flops(model.config, sampler, policy).total


def _sampler(*overrides: str) -> Sampler:
    return build_sampler(compose_settings("generate", [*SHORT, *overrides]))


@pytest.mark.parametrize("cache", ["token", "condition", "lazymar"])
def test_an_unguided_step_costs_one_branch(model: MAR, cache: str) -> None:
    """Steps before the interval cost what they do without guidance."""
    policy = build_cache(compose_settings("generate", [*SHORT, f"cache={cache}", *EAGER_REFRESH]))
    assert isinstance(policy, LazyMAR)
    interval = _sampler(*INTERVALS["from a lazy step on"])
    mixed = count_flops(model.config, interval, policy).per_step
    both = count_flops(model.config, _sampler(), policy).per_step
    unguided = _sampler("sampler.guidance_scale=1")
    if cache == "condition":  # refused without any guidance, so count what it then is: no cache
        policy = LazyMAR(policy.refresh)
    one = count_flops(model.config, unguided, policy).per_step
    first = next(step.index for step in interval.plan((8, 8)).steps if step.guided)
    assert first == 7 and mixed[:first] == one[:first]
    assert all(a < b for a, b in zip(mixed[:first], both[:first], strict=True))
    assert mixed[first] > both[first]  # a refresh now
    assert sum(mixed[first:]) > sum(one[first:])


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("cache", ["token", "condition", "lazymar"])
def test_memory_is_stated_exactly(run: Callable[..., Tensor], model: MAR, cache: str, interval: str) -> None:
    from .test_memory import BATCH, _bytes

    policy = build_cache(compose_settings("generate", [*SHORT, f"cache={cache}", *EAGER_REFRESH]))
    assert isinstance(policy, LazyMAR)
    most = [0, 0]

    class Measure(Observer):
        def step_end(self, state: DecodeState, step: ARStep) -> None:
            for number, part in enumerate((policy.token, policy.condition)):
                most[number] = max(most[number], _bytes(part.tensors()) if part is not None else 0)

    run(*INTERVALS[interval], cache=policy, batch=BATCH, observer=Measure())
    plan = _sampler(*INTERVALS[interval]).plan(model.config.grid)
    stated = cache_memory(policy, model.config, plan, bytes_per_element=4)
    assert most == [BATCH * stated.token, BATCH * stated.condition]
    assert stated.total > 0
