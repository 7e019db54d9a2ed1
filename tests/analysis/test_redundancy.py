"""The figures of redundancy from a small random model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mar_accel.analysis import figures
from mar_accel.analysis.head_reuse import stretches
from mar_accel.analysis.redundancy_run import measure_redundancy
from mar_accel.caching.head import HeadCache
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.sampling.diffusion_schedule import respaced_timesteps
from mar_accel.sampling.solvers import DDPM

SMALL = [
    "model.weights=random",
    "model.architecture.embed_dim=32",
    "model.architecture.num_heads=2",
    "model.architecture.encoder_depth=1",
    "model.architecture.decoder_depth=2",
    "model.architecture.head_depth=1",
    "model.architecture.head_width=32",
    "sampler.num_iter=5",
    "sampler.num_diffusion_steps=9",
    "dataset.num_images=3",
    "trainer.batch_size=2",
]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at numbers: drawing takes longer than sampling."""
    monkeypatch.setattr(figures, "save_figure", lambda path, *drawing: [path])


def test_figures_and_numbers(tmp_path: Path) -> None:
    statistics = measure_redundancy(compose_settings("redundancy", [*SMALL, f"output_dir={tmp_path}"]))
    assert statistics.num_images == 3
    with (tmp_path / "token_distance.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Every step but the first is compared; at step 1 nothing was decoded earlier, at step 4 nothing is left.
    assert [sum(int(row["step"]) == k for row in rows) for k in range(5)] == [0, 3, 4, 4, 3]
    for k in range(1, 5):
        assert sum(int(row["tokens"]) for row in rows if int(row["step"]) == k) == 256
    assert all(0 <= float(row["value_distance"]) <= 2 for row in rows)
    # A token that becomes known moves more than one that was known already.
    mean = {
        category: [float(row["output_distance"]) for row in rows if row["category"] == category]
        for category in ("just decoded", "decoded earlier")
    }
    assert min(mean["just decoded"]) > max(mean["decoded earlier"])
    for name in ("output", "residual"):
        matrix = statistics.matrices()[name]
        torch.testing.assert_close(matrix.diagonal(), torch.ones(5))
        torch.testing.assert_close(matrix, matrix.T)
    for picture in ("token_distance", "branch_mse", "step_similarity", "head_reuse"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 1000
    assert (tmp_path / "run.json").is_file()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.3, 0.9), (0.5, 1.0)])
def test_steps_without_guidance_are_gaps(low: float, high: float, tmp_path: Path) -> None:
    """Guidance in a part of the steps: at the start, in the middle, at the end."""
    interval = ["sampler/guidance_schedule=interval", "sampler.guidance_schedule.over=decoded"]
    interval += [f"sampler.guidance_schedule.low={low}", f"sampler.guidance_schedule.high={high}"]
    overrides = [*SMALL, *interval, "redundancy.head_every=null", f"output_dir={tmp_path}"]
    statistics = measure_redundancy(compose_settings("redundancy", overrides))
    with (tmp_path / "branch_mse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["conditional"]) > 0 for row in rows)
    guided = [row for row in rows if row.get("residual", "nan") != "nan"]
    assert len(guided) < 4 and (statistics.residual_ratio() is None) == (not guided)


def test_stretches_lie_between_refreshes() -> None:
    assert stretches(HeadCache(period=3, period_for=None), 9) == [range(1, 3), range(4, 6), range(7, 8)]
    assert stretches(HeadCache(period=1, period_for=None), 9) == []


@pytest.mark.usefixtures("no_pictures")
def test_each_part_of_a_chain_is_probed_alone(tmp_path: Path) -> None:
    """The tokens stay those of the plain solver; all of a period of 3 is three stretches, one that of 9."""
    overrides = [*SMALL, "model.architecture.head_depth=2", "redundancy.head_every=2"]
    config = compose_settings(
        "redundancy", [*overrides, "redundancy.head_period=3", f"output_dir={tmp_path}"]
    )
    measure_redundancy(config)
    with (tmp_path / "head_reuse.csv").open() as file:
        rows = list(csv.DictReader(file))
    timesteps = respaced_timesteps(
        9, config.sampler["max_timestep"] if config.sampler["max_timestep"] != "auto" else 950
    )
    length = len(timesteps)
    assert {int(row["diffusion_steps"]) for row in rows} == {length}
    probed = [
        (int(row["first_timestep"]), int(row["last_timestep"])) for row in rows if row["part"] == "stretch"
    ]
    expected = [
        (timesteps[part[0]], timesteps[part[-1]])
        for part in stretches(HeadCache(period=3, period_for=None), length)
    ]
    assert probed == expected
    assert all(float(row["mse"]) > 0 for row in rows) and rows[-1]["part"] == "all"


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("redundancy.head_every=0", r"redundancy\.head_every must be ≥ 1, got 0"),
        ("redundancy.head_period=1", r"redundancy\.head_period must be ≥ 2, got 1"),
        ("trainer.limit_predict_batches=0.01", r"trainer\.limit_predict_batches must leave at least one"),
        ("redundancy.prune_block=first", r"redundancy\.prune_block must be an integer or auto, got 'first'"),
    ],
)
def test_a_probe_that_measures_nothing_is_refused(tmp_path: Path, override: str, text: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=text):
        measure_redundancy(compose_settings("redundancy", [*SMALL, override, f"output_dir={folder}"]))
    assert not folder.exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_solver_that_jumps_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DDPM, "visits_every_timestep", False)
    measure_redundancy(compose_settings("redundancy", [*SMALL, f"output_dir={tmp_path}"]))
    assert (tmp_path / "branch_mse.csv").exists() and not (tmp_path / "head_reuse.csv").exists()


def test_without_guidance_there_is_no_residual(tmp_path: Path) -> None:
    config = compose_settings("redundancy", [*SMALL, "sampler.guidance_scale=1", f"output_dir={tmp_path}"])
    statistics = measure_redundancy(config)
    assert statistics.residual_ratio() is None and list(statistics.matrices()) == ["output"]


def test_one_step_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"sampler\.num_iter"):
        measure_redundancy(
            compose_settings("redundancy", [*SMALL, "sampler.num_iter=1", f"output_dir={folder}"])
        )
    assert not folder.exists()


@pytest.mark.usefixtures("no_pictures")
def test_several_devices_are_one(tmp_path: Path) -> None:
    """What is recorded stays in one process; two would write half of it each."""
    overrides = [*SMALL, "trainer=ddp_cpu", "trainer.batch_size=2", f"output_dir={tmp_path}"]
    assert measure_redundancy(compose_settings("redundancy", overrides)).num_images == 3
