"""Which AR steps are refreshed, and how much a lazy step recomputes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mar_accel.caching.adaptive import AdaptiveRefresh
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.ratios import PUBLISHED_RATIOS, Ratios
from mar_accel.caching.refresh import FixedRefresh, Refresh
from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.sampling.plan import Plan

from .conftest import SHORT

PUBLISHED_REFRESHES = [0, 1, 2, 3, 4, 5, 14, 23, 32, 41, 50, 59]


def _plan(*overrides: str) -> Plan:
    return build_sampler(compose_settings("generate", list(overrides))).plan((16, 16))


def _refreshes(refresh: Refresh, plan: Plan) -> list[int]:
    refresh.start(plan)
    return [step.index for step in plan.steps if refresh.due(step)]


@pytest.mark.parametrize("max_new_share", [None, 0.25])
def test_the_published_schedule(max_new_share: float | None) -> None:
    """The bound on new tokens, which is on by default, changes nothing at the published 64 steps."""
    assert _refreshes(FixedRefresh(5, 9, max_new_share), _plan("sampler.num_iter=64")) == PUBLISHED_REFRESHES


def test_no_more_new_tokens_than_the_bound() -> None:
    for sampler in ("gtr", "gtr_19", "gtr_16", "mar"):
        plan = _plan(f"sampler={sampler}")
        refreshes = _refreshes(FixedRefresh(5, 9, 0.25), plan)
        # A lazy step knows less than a quarter more than the refresh before it.
        for step in plan.steps:
            last = max(index for index in refreshes if index <= step.index)
            assert step.start - plan.steps[last].start < 64
        assert len(refreshes) < len(plan.steps)


def test_the_horizon_is_where_the_next_refresh_starts() -> None:
    plan, refresh = _plan("sampler.num_iter=64"), FixedRefresh(5, 9, None)
    refreshes = _refreshes(refresh, plan)
    for index, following in zip(refreshes, [*refreshes[1:], None], strict=True):
        end = plan.num_tokens if following is None else plan.steps[following].start
        assert refresh.horizon(plan.steps[index]) == end


def test_no_warmup_still_refreshes_the_first_step() -> None:
    assert _refreshes(FixedRefresh(0, 4, None), _plan("sampler.num_iter=10")) == [0, 4, 8]


def test_ratios_by_step_progress_and_tokens() -> None:
    by = {mode: Ratios(PUBLISHED_RATIOS, 64, mode) for mode in ("step", "progress", "tokens")}
    plan = _plan("sampler.num_iter=64")
    values = {mode: [ratios.at(plan, step) for step in plan.steps] for mode, ratios in by.items()}
    assert values["step"] == values["progress"]
    assert values["step"][19:26] == [1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4] and values["step"][63] == 0.05
    # Rounding the cosine schedule to whole tokens moves a step by one at most.
    shifted = [values["step"][max(0, k - 1) : k + 2] for k in range(64)]
    assert all(value in near for value, near in zip(values["tokens"], shifted, strict=True))
    few = _plan("sampler.num_iter=16")
    assert [by["progress"].at(few, few.steps[k]) for k in (0, 5, 10, 15)] == [1.0, 0.6, 0.05, 0.05]
    assert [by["step"].at(few, few.steps[k]) for k in (0, 5, 10, 15)] == [1.0] * 4
    gtr = _plan("sampler=gtr_19")
    table = [by["tokens"].at(gtr, step) for step in gtr.steps]
    assert table == sorted(table, reverse=True) and table[0] == 1.0 and table[-1] == 0.05


def _adaptive(threshold: float) -> LazyMAR:
    overrides = ["cache=token", "cache/refresh=adaptive", f"cache.refresh.threshold={threshold}"]
    overrides += ["cache.refresh.warmup_steps=1", "cache.refresh.max_new_share=null"]
    cache = build_cache(compose_settings("generate", [*SHORT, *overrides]))
    assert isinstance(cache, LazyMAR)
    return cache


def test_adaptive_refresh_follows_the_drift(run: Callable[..., Tensor]) -> None:
    plain, counts = run("cache=none"), []
    for threshold in (0.0, 0.05, 1e9):
        cache = _adaptive(threshold)
        tokens = run(cache=cache)
        assert isinstance(cache.refresh, AdaptiveRefresh) and len(cache.refresh.last_batch) == 12
        counts.append(sum(cache.refresh.last_batch))
        assert not torch.equal(tokens, plain)
    # Drift is measured at lazy steps, so without any tolerance every second step is one.
    assert counts[0] == 7 and counts[2] == 2
    assert counts[0] >= counts[1] >= counts[2]


@pytest.mark.slow
def test_flops_of_adaptive_refresh_are_those_of_the_last_batch(
    run: Callable[..., Tensor], model: MAR
) -> None:
    sampler = build_sampler(compose_settings("generate", SHORT))
    cache = _adaptive(0.0)
    before = count_flops(model.config, sampler, cache).total
    run(cache=cache)
    after = count_flops(model.config, sampler, cache).total
    steps = [k for k, due in enumerate(cache.refresh.last_batch) if due]  # type: ignore[attr-defined]
    overrides = ["cache=token", "cache/refresh=listed", f"cache.refresh.steps={steps}"]
    listed = build_cache(compose_settings("generate", [*SHORT, *overrides]))
    lower, exact = before, count_flops(model.config, sampler, listed).total
    # Adaptive refreshes keep what a lazy step would need even where none follows; that costs no FLOPs.
    assert lower < after == exact


@pytest.mark.parametrize("cache", ["token", "condition", "head", "lazymar"])
def test_every_cache_saves_flops(model: MAR, cache: str) -> None:
    # The chains here have nine timesteps, which the default period would refresh everywhere.
    long = ["cache.head.period_for=9"] if cache in ("head", "lazymar") else []
    plain = _flops(model.config, [*SHORT, "cache=none"])
    counted = _flops(model.config, [*SHORT, f"cache={cache}", *long])
    if cache == "head":
        assert (counted.encoder, counted.decoder) == (plain.encoder, plain.decoder)
    else:
        assert counted.encoder < plain.encoder and counted.decoder < plain.decoder
    if cache in ("head", "lazymar"):
        assert counted.head < 0.6 * plain.head
    else:
        assert counted.head == plain.head


def _flops(config: MARConfig, overrides: list[str]) -> FlopCount:
    composed = compose_settings("generate", overrides)
    return count_flops(config, build_sampler(composed), build_cache(composed))
