"""The rows of the experiment can be run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import load_rows
from mar_accel.inference.build import build_architecture, build_cache, build_sampler

ROWS = Path(__file__).parents[2] / "experiments" / "lazymar_ablation" / "rows.yaml"


@pytest.mark.slow
def test_every_row_composes_and_fits_the_embedded_model() -> None:
    seen = []
    for row in load_rows(ROWS):
        config = compose_settings("generate", list(row.overrides))
        sampler, cache = build_sampler(config), build_cache(config)
        architecture = build_architecture(config.model)
        cache.check(architecture, sampler.plan(architecture.grid), sampler.solver)
        seen.append((config.sampler, config.cache))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])  # no row repeats another
