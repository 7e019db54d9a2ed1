"""The smallest config that an evaluation works on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny(tiny_model: list[str]) -> list[str]:
    """Overrides of a tiny model with random weights that is judged on plain scans."""
    return [*tiny_model, "sampler.num_diffusion_steps=3", "reference.augmentations=0"]
