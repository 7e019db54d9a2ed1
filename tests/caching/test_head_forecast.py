"""Head caches that forecast, first-block caching with a calibrated list, and MARché's choice of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mar_accel.analysis.head_calibration_run import calibrate_head
from mar_accel.caching.attended import AttendedTokenCache
from mar_accel.caching.first_block_calibration import refresh_timesteps
from mar_accel.caching.head import HeadCache
from mar_accel.caching.head_forecast import (
    FirstBlockHeadCache,
    Forecast,
    ForecastDenoiser,
    TaylorHeadCache,
)
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.memory import cache_memory
from mar_accel.caching.refresh import FixedRefresh
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampler
from mar_accel.models.mar import MAR
from mar_accel.sampling.guidance import Guidance
from mar_accel.sampling.plan import ARStep

from .conftest import EAGER_REFRESH, SHORT, Decode


def test_forecast_is_exact_for_lines_and_constants() -> None:
    line = torch.tensor([3.0, -1.0])
    for order in (1, 2):
        forecast = Forecast(order)
        for index in (20, 15, 8):
            forecast.keep(2 + index * line, index)
        torch.testing.assert_close(forecast.at(3), 2 + 3 * line)
    constant = Forecast(0)
    constant.keep(line, 9)
    assert torch.equal(constant.at(2), line)


def test_second_order_follows_the_paper() -> None:
    """D_1 = (F − F')/n, D_2 = (D_1 − D_1')/n, F + D_1·x + D_2·x²/2, with n timesteps between refreshes."""
    forecast = Forecast(2)
    for index, value in ((12, 1.0), (9, 2.0), (6, 7.0)):
        forecast.keep(torch.tensor(value), index)
    first, second = 5 / 3, (5 / 3 - 1 / 3) / 3
    assert float(forecast.at(4)) == pytest.approx(7 + 2 * first + 2 * second)


def test_order_rises_with_the_refreshes() -> None:
    forecast = Forecast(2)
    for count, index in enumerate((9, 7, 4, 2), start=1):
        forecast.keep(torch.tensor(float(index**2)), index)
        assert len(forecast.differences) == min(3, count)


@pytest.mark.parametrize(
    "head",
    [
        TaylorHeadCache(2, period=1),
        TaylorHeadCache(1, refresh_below=1.0),
        FirstBlockHeadCache(range(9), 9),
    ],
    ids=repr,
)
def test_refreshing_always_is_no_cache(run: Decode, head: HeadCache) -> None:
    assert torch.equal(run(cache=LazyMAR(FixedRefresh(), head=head)), run())


@pytest.mark.parametrize("guided", [True, False])
def test_one_head_block_computed_first_is_no_cache(run: Decode, guided: bool) -> None:
    """If the first block is all there is, nothing is forecast but the difference of the branches."""
    from .conftest import small_model

    network, head = small_model(head_depth=1), FirstBlockHeadCache([0, 8], 9, refresh_below=0.0)
    scale = [] if guided else ["sampler.guidance_scale=1"]
    cached = run(*scale, cache=LazyMAR(FixedRefresh(), head=head), network=network)
    plain = run(*scale, network=network)
    assert torch.allclose(cached, plain, rtol=1e-4, atol=1e-4) != guided


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["sampler.guidance_scale=1"],
        ["sampler/selection=fts", "sampler.selection.num_diffusion_steps=20"],
        ["sampler/guidance_schedule=interval", "sampler.guidance_schedule.over=timestep",
         "sampler.guidance_schedule.low=200", "sampler.guidance_schedule.high=600"],
        ["sampler.solver=dpm_solver_singlestep"],
    ],
)  # fmt: skip
def test_taylor_runs_with_every_sampling(run: Decode, order: int, overrides: list[str]) -> None:
    head = TaylorHeadCache(order, period=3, period_for=9)
    tokens = run(*overrides, cache=LazyMAR(FixedRefresh(), head=head))
    assert tokens.isfinite().all() and not torch.equal(tokens, run(*overrides))


def test_images_do_not_depend_on_their_batch(run: Decode) -> None:
    for head in (TaylorHeadCache(1, 3, 9), FirstBlockHeadCache([0, 4, 8], 9)):
        policy = LazyMAR(FixedRefresh(), head=head)
        together, alone = run(cache=policy, batch=3)[:1], run(cache=policy, batch=1)
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_listed_timesteps_scale_with_the_chain() -> None:
    head = FirstBlockHeadCache([0, 33, 66, 99], 100, refresh_below=0.0)
    assert [t for t in range(100) if head.refreshes(t, 100)] == [0, 33, 66, 99]
    assert [t for t in range(10) if head.refreshes(t, 10)] == [0, 3, 6, 9]
    assert [t for t in range(1) if head.refreshes(t, 1)] == [0]


def test_memory_is_what_a_chain_keeps(model: MAR) -> None:
    plan = build_sampler(compose_settings("generate", SHORT)).plan(model.config.grid)
    step: ARStep = max(plan.steps, key=lambda each: each.num_tokens)
    net, count = model.diffloss.net, step.num_tokens
    for head in (TaylorHeadCache(2, 3, 9), FirstBlockHeadCache([0, 4, 8], 9)):
        policy = LazyMAR(FixedRefresh(), head=head)
        with torch.inference_mode():
            embeddings = net.time_embed(torch.arange(9))
            denoise = head.denoiser(net, torch.randn(2 * count, 32), embeddings, Guidance(2.0), [True] * 9)
            assert isinstance(denoise, ForecastDenoiser)
            for index in reversed(range(9)):
                denoise(torch.randn(count, model.config.token_dim), index)
        kept = sum(tensor.numel() * tensor.element_size() for tensor in denoise.tensors())
        assert kept == cache_memory(policy, model.config, plan, 4).head


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaylorHeadCache(-1), r"order must be ≥ 0 .* got -1"),
        (lambda: FirstBlockHeadCache([0, 100], 100), r"timesteps must be between 0 and 99 .* got \[0, 100\]"),
        (lambda: FirstBlockHeadCache([0], 0), r"timesteps_for must be ≥ 1, got 0"),
    ],
)
def test_bad_input_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"cache\.head\.{message}"):
        make()  # type: ignore[operator]


def test_refresh_timesteps_follow_the_threshold() -> None:
    changes = torch.tensor([[abs(s - t) / 10 for t in range(11)] for s in range(11)])
    assert refresh_timesteps(changes, 0.3) == [1, 4, 7, 10]
    assert refresh_timesteps(changes, 2.0) == [10]


def test_calibration_writes_a_list_that_can_be_used(tiny_model: list[str], tmp_path: Path) -> None:
    head = ["cache=head", "cache.head=first_block", "dataset.num_images=2"]
    sizes = ["model.architecture.head_depth=2", "sampler.num_diffusion_steps=12"]
    settings = compose_settings("calibrate", [*tiny_model, *sizes, *head, f"output_dir={tmp_path}"])
    result = calibrate_head(settings, 0.2)
    assert result.timesteps[-1] == result.num_timesteps - 1 and result.flops_ratio >= 1
    written = (tmp_path / "overrides.txt").read_text().split()
    assert written == list(result.overrides)
    again = compose_settings("generate", [*tiny_model, *sizes, *head, *written])
    assert again.cache["head"]["timesteps"] == list(result.timesteps)
    with pytest.raises(ConfigError, match=r"calibrate\.head_threshold needs the first-block cache"):
        calibrate_head(compose_settings("calibrate", [*tiny_model, f"output_dir={tmp_path}"]), 0.2)


def test_attended_tokens_are_recomputed(run: Decode) -> None:
    """With all tokens recomputed it is the token cache; with few it chooses other tokens."""
    refresh = FixedRefresh(3, 3)
    every, few = (LazyMAR(refresh, AttendedTokenCache(ratios=r, minimum_extra=0)) for r in (1.0, 0.3))
    ours = run("cache=token", *EAGER_REFRESH, "cache.token.ratios=1.0")
    torch.testing.assert_close(run(cache=every), ours, rtol=1e-3, atol=1e-3)
    similar = run("cache=token", *EAGER_REFRESH, "cache.token.ratios=0.3", "cache.token.minimum_extra=0")
    tokens = run(cache=few)
    assert tokens.isfinite().all() and not torch.allclose(tokens, similar, rtol=1e-3, atol=1e-3)


def test_attention_ranks_are_those_of_the_tokens_decoded_last(model: MAR) -> None:
    from mar_accel.caching.blocks import blocks_of

    block = blocks_of(model.decoder_blocks)[0]
    x = torch.randn(2, 12, 32)
    normed = block.norm1(x)
    last = torch.tensor([[3, 5], [0, 7]])
    with torch.inference_mode():
        q, k, _ = block.attn.project_qkv(normed)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)  # [2, H, 12, 12]
        expected = torch.stack([weights[i][:, last[i]].mean((0, 1)) for i in range(2)])
        kv = block.attn.project_kv_rows(normed)
        ranks = AttendedTokenCache()._ranks(block, normed, kv, torch.zeros(2, 12), last)
    torch.testing.assert_close(-ranks, expected)
