"""The FLOPs that docs/text.md states for LightGen at 512 px."""

from __future__ import annotations

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_sampling
from mar_accel.profiling.flops import count_flops

# Sampler and cache: TFLOPs of the base size.
BASE = {
    ("lightgen_32", "as_published"): 56.24,
    ("lightgen_32", "none"): 37.12,
    ("lightgen_32", "lazymar_text"): 11.50,
    ("lightgen_32", "lazymar"): 11.63,
    ("gtr_lightgen", "none"): 11.26,
    ("gtr_lightgen", "lazymar_text"): 8.23,
}


@pytest.mark.slow
def test_base_size_at_512_pixels() -> None:
    model = ["model=lightgen_base", "dataset=prompts", "dataset.prompts=[a]"]
    for (sampler, cache), expected in BASE.items():
        settings = compose_settings("generate", [*model, f"sampler={sampler}", f"cache={cache}"])
        architecture, built, policy, _ = build_sampling(settings)
        assert architecture.seq_len == 1024
        assert count_flops(architecture, built, policy).total / 1e12 == pytest.approx(expected, abs=0.006)
