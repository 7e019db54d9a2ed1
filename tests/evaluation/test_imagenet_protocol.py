"""experiment=imagenet50k_*: the published ImageNet protocol."""

from __future__ import annotations

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.data.requests import GenerationRequests


@pytest.mark.parametrize(("size", "scale"), [("base", 2.9), ("large", 3.0), ("huge", 3.25)])
def test_published_settings(size: str, scale: float) -> None:
    config = compose_settings("evaluate", [f"experiment=imagenet50k_{size}"])
    assert config.model.name == f"mar_{size}"
    sampler = config.sampler
    keys = ("guidance_scale", "num_iter", "num_diffusion_steps")
    assert tuple(sampler[key] for key in keys) == (scale, 256, 100)
    assert config.features["_target_"].endswith("InceptionFeatures")
    assert config.reference["source"] == "adm_in256_stats.npz"
    compose_settings("generate", [f"experiment=imagenet50k_{size}"])


def test_an_accelerated_sampler_keeps_its_own_steps() -> None:
    plain = compose_settings("evaluate", ["sampler=gtr_19", "cache=lazymar"])
    config = compose_settings("evaluate", ["experiment=imagenet50k_huge", "sampler=gtr_19", "cache=lazymar"])
    assert config.dataset.num_images == 50000 and config.sampler["guidance_scale"] == 3.25
    for key in ("num_iter", "num_diffusion_steps", "order", "step_sizes"):
        assert config.sampler[key] == plain.sampler[key]


def test_fifty_of_each_class_in_the_order_of_the_classes() -> None:
    dataset = compose_settings("evaluate", ["experiment=imagenet50k_base"]).dataset
    requests = GenerationRequests(dataset, batch_size=500)
    labels = [label for _, batch in requests.predict_dataloader() for label in batch.tolist()]
    assert labels == [label for label in range(1000) for _ in range(50)]
