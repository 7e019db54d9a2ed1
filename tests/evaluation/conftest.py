"""The smallest config that an evaluation works on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of a model of one block and a few steps, with random weights, judged on plain scans."""
    return [
        "model.weights=random",
        "model.architecture.embed_dim=32",
        "model.architecture.num_heads=2",
        "model.architecture.encoder_depth=1",
        "model.architecture.decoder_depth=1",
        "model.architecture.head_depth=1",
        "model.architecture.head_width=32",
        "sampler.num_iter=4",
        "sampler.num_diffusion_steps=3",
        "callbacks=none",
        "reference.augmentations=0",
    ]
