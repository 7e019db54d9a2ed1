"""The rows of the experiments compose, and make plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import load_rows
from mar_accel.inference.build import build_architecture, build_sampler

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = [*FOLDER.glob("gtr_*/rows*.yaml"), *FOLDER.glob("max_timestep/rows.yaml")]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_rows_make_different_plans(path: Path) -> None:
    rows, different = load_rows(path), set()
    for row in rows:
        config = compose_settings("evaluate", row.overrides)
        plan = build_sampler(config).plan(build_architecture(config.model).grid)
        assert sum(step.num_tokens for step in plan.steps) >= 1
        # Rows with one sampler may differ in the cache.
        different.add((str(config.sampler), str(config.cache)))
    assert len(different) == len(rows), "two rows sample alike"
