"""A small model with random weights, and decoding with it under any config."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.policy import CachePolicy

from ..tiny import with_an_active_head

# Under EAGER_REFRESH steps 4, 5, 7, 8, 10 and 11 are lazy; of the nine timesteps 8, 7 and 0 are refreshed.
SHORT = [
    "sampler.num_iter=12",
    "sampler.num_diffusion_steps=9",
    "sampler.guidance_scale=2",
]
EAGER_REFRESH = ["cache.refresh.warmup_steps=3", "cache.refresh.period=3"]


@lru_cache
def _settings(overrides: tuple[str, ...]) -> Settings:
    settings = compose_settings("generate", [*SHORT, *overrides])
    head = settings.cache.get("head")
    if head and head["period_for"] == 100:
        # Chains of nine timesteps would get no head cache under the default, a period for a hundred.
        return settings.with_(cache={**settings.cache, "head": {**head, "period_for": 9}})
    return settings


def small_model(**changes: int) -> MAR:
    sizes = {"embed_dim": 32, "num_heads": 2, "encoder_depth": 2, "decoder_depth": 5, "head_depth": 3}
    config = MARConfig(
        grid=(8, 8), latent_channels=4, num_classes=10, buffer_size=8, head_width=32, **sizes | changes
    )
    torch.manual_seed(0)
    return with_an_active_head(MAR(config).eval())


@pytest.fixture(scope="session")
def model() -> MAR:
    return small_model()


Decode = Callable[..., Tensor]


@pytest.fixture
def run(model: MAR) -> Decode:
    """Decode tokens [B, L, C] under overrides of generate's config, or with a policy that is given."""

    def decode_with(
        *overrides: str,
        cache: CachePolicy | None = None,
        batch: int = 2,
        network: MAR | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        network = network or model
        settings = _settings(overrides)
        sampler, policy = build_sampler(settings), cache or build_cache(settings)
        plan = sampler.plan(network.config.grid)
        policy.check(network.config, plan, sampler.solver)
        noise = sampler.draw(plan, 0, list(range(batch)), network.config.token_dim)
        engine = Engine(network, plan, sampler.solver, policy, sampler.selection)
        return decode(engine, network.condition(torch.arange(batch)), noise, observer)

    return decode_with
