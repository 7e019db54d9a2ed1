"""Sizes of architectures: what is refused before anything is built."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.metrics.reference import ReferenceSource
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.models.mar import MARConfig
from mar_accel.training.build import build_trained
from mar_accel.utils.host_memory import physical_memory
from mar_accel.weights.loading import load_mar


@pytest.mark.parametrize("kind", [MARConfig, LightGenConfig])
@pytest.mark.parametrize(
    "sizes",
    [
        {"num_heads": 0},
        {"grid": (16,)},
        {"grid": (16, -1)},
        {"patch_size": 0},
        {"encoder_depth": -1},
        {"decoder_depth": 0},
        {"embed_dim": 2.0},
        {"latent_channels": True},
        {"mlp_ratio": 0},
        {"embed_dim": 770},
    ],
    ids=str,
)
def test_sizes_that_no_network_has(kind: Any, sizes: dict[str, Any]) -> None:
    (key,) = sizes
    with pytest.raises(ConfigError, match=rf"^model\.architecture\.{key} must be .*\.$"):
        kind(**sizes)


def test_parts_that_may_be_missing() -> None:
    MARConfig(encoder_depth=0, head_depth=0, buffer_size=0)


def test_memory_is_judged_before_it_is_taken() -> None:
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"billion parameters, which need \d+ GB of memory"):
        load_mar(MARConfig(embed_dim=1_000_000, num_heads=1), "random", "huge")
    settings = compose_settings("train", ["model.architecture.embed_dim=300000"])
    with pytest.raises(ConfigError, match=r"need \d+ GB of memory"):
        build_trained(settings.model)
    with pytest.raises(ConfigError, match=r"augmentations=100000000 needs \d+ GB .* enough for \d+\.$"):
        ReferenceSource("digits", augmentations=100_000_000).check()
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
    ReferenceSource("digits", augmentations=10).check()
    assert physical_memory() > 1e8
