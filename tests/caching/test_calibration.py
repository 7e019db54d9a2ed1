"""Schedules that follow from how far features move."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mar_accel.analysis.calibration_run import calibrate
from mar_accel.caching.calibration import Schedule, least_tolerance, schedule_of
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_cache, build_sampler
from mar_accel.profiling.flops import count_flops

# Four steps of one image with four tokens: nothing at first, then one, two, and three tokens move by 0.4.
DISTANCES = torch.tensor([[0, 0, 0, 0], [0.4, 0, 0, 0], [0.4, 0.4, 0, 0], [0.4, 0.4, 0.4, 0]]).unsqueeze(1)


def test_ratios_are_the_shares_that_move() -> None:
    schedule = schedule_of(DISTANCES, tolerance=0.3, drift_factor=100, warmup_steps=0)
    assert schedule.ratios == ((0, 1.0), (1, 0.25), (2, 0.5), (3, 0.75)) and schedule.refreshes == (0,)
    assert schedule_of(DISTANCES, 0.5, 100, 0).ratios == ((0, 1.0), (1, 0.0))


def test_drift_refreshes() -> None:
    # Mean distances 0.1, 0.2, 0.3: after step 2 the drift of 0.3 exceeds 0.25.
    assert schedule_of(DISTANCES, 0.25, 1, warmup_steps=0).refreshes == (0, 3)
    assert schedule_of(DISTANCES, 1e-6, 1, warmup_steps=0).refreshes == (0, 2)
    assert schedule_of(DISTANCES, 1.0, 1, warmup_steps=2).refreshes == (0, 1, 2)


def test_the_mildest_schedule_that_is_fast_enough() -> None:
    def schedule(tolerance: float) -> Schedule:
        return Schedule(tolerance, 0.0, (0,), ((0, 1.0),))

    best, reached = least_tolerance(schedule, lambda schedule: 1 + schedule.tolerance, wanted=1.5)
    assert 1.5 <= reached < 1.51 and best.tolerance == pytest.approx(0.5, rel=0.02)
    with pytest.raises(ConfigError, match=r"calibrate\.flops_ratio must be ≤ 3\.00 .* got 4"):
        least_tolerance(schedule, lambda schedule: 1 + schedule.tolerance, wanted=4)


SMALL = [
    "model.weights=random",
    "model.architecture.grid=[8,8]",
    "model.architecture.embed_dim=32",
    "model.architecture.num_heads=2",
    "model.architecture.encoder_depth=2",
    "model.architecture.head_depth=2",
    "model.architecture.head_width=32",
    "sampler.num_iter=8",
    "sampler.num_diffusion_steps=3",
    "dataset.num_images=2",
]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("calibrate.flops_ratio=1", r"calibrate\.flops_ratio must be > 1\S*, got 1\."),
        ("calibrate.drift_factor=0", r"calibrate\.drift_factor must be > 0\S*, got 0\."),
        ("calibrate.warmup_steps=-1", r"calibrate\.warmup_steps must be ≥ 0, got -1\."),
        ("calibrate.flops_ratio=50", r"calibrate\.flops_ratio must be ≤ \d.* got 50"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, text: str
) -> None:
    monkeypatch.setattr("mar_accel.analysis.calibration_run._distances", lambda *_: pytest.fail("sampled"))
    with pytest.raises(ConfigError, match=text):
        calibrate(compose_settings("calibrate", [*SMALL, override, f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_overrides_give_the_wanted_ratio_of_flops(tmp_path: Path) -> None:
    config = compose_settings("calibrate", [*SMALL, "calibrate.flops_ratio=1.5", f"output_dir={tmp_path}"])
    result = calibrate(config)
    overrides = (tmp_path / "overrides.txt").read_text().split()
    assert overrides == list(result.overrides)
    counted = []
    for cache in (["cache=none"], ["cache=lazymar", *overrides]):
        composed = compose_settings("generate", [*SMALL, *cache])
        architecture = build_architecture(composed.model)
        counted.append(count_flops(architecture, build_sampler(composed), build_cache(composed)).total)
    assert counted[0] / counted[1] == pytest.approx(result.flops_ratio) and result.flops_ratio >= 1.5


@pytest.mark.parametrize(
    ("override", "text"),
    [("cache=none", "cache has no token cache"), ("cache=head", "cache has no token cache")],
)
def test_what_cannot_be_calibrated(override: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        calibrate(compose_settings("calibrate", [*SMALL, override, f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
