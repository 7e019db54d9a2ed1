"""Stated bytes are the bytes that are really allocated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mar_accel.caching.head import HeadCacheDenoiser
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.memory import cache_memory
from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.observer import Observer

from .conftest import EAGER_REFRESH, SHORT

BATCH = 3


def _lazymar(*overrides: str) -> LazyMAR:
    cache = build_cache(compose_settings("generate", [*SHORT, *overrides]))
    assert isinstance(cache, LazyMAR)
    return cache


def _bytes(tensors: list[Tensor]) -> int:
    """Bytes behind tensors, each storage counted once and whole, as it stays allocated."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("scale", ["1", "2"])
@pytest.mark.parametrize("cache", ["token", "condition", "lazymar"])
def test_memory_is_stated_exactly(run: Callable[..., Tensor], model: MAR, cache: str, scale: str) -> None:
    if cache == "condition" and scale == "1":
        pytest.skip("there is one branch")
    guidance = f"sampler.guidance_scale={scale}"
    policy, most = _lazymar(f"cache={cache}", *EAGER_REFRESH), [0, 0]

    class Meter(Observer):
        def step_end(self, *_: object) -> None:
            for number, part in enumerate((policy.token, policy.condition)):
                most[number] = max(most[number], _bytes(part.tensors()) if part is not None else 0)

    run(guidance, cache=policy, batch=BATCH, observer=Meter())
    plan = build_sampler(compose_settings("generate", [*SHORT, guidance])).plan(model.config.grid)
    stated = cache_memory(policy, model.config, plan, bytes_per_element=4)
    assert most == [BATCH * stated.token, BATCH * stated.condition]
    assert stated.total > 0


def test_memory_of_the_head_cache(model: MAR) -> None:
    policy = _lazymar("cache=head", "cache.head.period_for=9")
    plan = build_sampler(compose_settings("generate", SHORT)).plan(model.config.grid)
    step = max(plan.steps, key=lambda step: step.num_tokens)
    net, count = model.diffloss.net, step.num_tokens
    with torch.inference_mode():
        embeddings = net.time_embed(torch.arange(9))
        denoise = policy.denoiser(net, torch.randn(2 * count, 32), embeddings, step, guided=[True] * 9)
        assert isinstance(denoise, HeadCacheDenoiser)
        for index in reversed(range(9)):
            denoise(torch.randn(count, model.config.token_dim), index)
    assert _bytes(denoise.tensors()) == cache_memory(policy, model.config, plan, 4).head


def test_chains_that_refresh_everywhere_keep_nothing(model: MAR) -> None:
    """Nine timesteps, under a period of 7 for a hundred: only the chosen tokens' chain is long enough."""
    policy = _lazymar("cache=head")
    fts = ["sampler/selection=fts", "sampler.selection.num_diffusion_steps=50"]
    short = build_sampler(compose_settings("generate", SHORT)).plan(model.config.grid)
    mixed = build_sampler(compose_settings("generate", [*SHORT, *fts])).plan(model.config.grid)
    most = max(step.num_detail_tokens for step in mixed.steps)
    per_token = model.config.head_depth * model.config.head_width + model.config.token_dim
    assert cache_memory(policy, model.config, short, 4).head == 0
    assert cache_memory(policy, model.config, mixed, 4).head == 4 * most * per_token > 0


def test_no_lazy_step_needs_no_memory(model: MAR) -> None:
    policy = _lazymar("cache=lazymar", "cache.head=null", "cache.refresh.period=1")
    plan = build_sampler(compose_settings("generate", SHORT)).plan(model.config.grid)
    assert cache_memory(policy, model.config, plan, 4).total == 0


def test_memory_of_mar_huge() -> None:
    """The number that docs/caches.md states: 61 MB per image in bfloat16, 7.8 GB for 128 images."""
    huge = MARConfig(
        embed_dim=1280, num_heads=16, encoder_depth=20, decoder_depth=20, head_depth=12, head_width=1536
    )
    config = compose_settings("generate", ["cache=lazymar", "sampler.guidance_scale=3.25"])
    policy = build_cache(config)
    assert isinstance(policy, LazyMAR)
    stated = cache_memory(policy, huge, build_sampler(config).plan(huge.grid), bytes_per_element=2)
    assert stated.token == 2 * 320 * 1280 * (2 * (20 + 16) + 2)
    assert 128 * stated.total == pytest.approx(7.8e9, rel=0.01)
