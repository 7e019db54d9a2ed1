"""Samplers and their parts from the command line."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings, group_choices
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampler
from mar_accel.sampling.diffusion_steps import AnnealedDiffusionSteps
from mar_accel.sampling.orders import BisectionOrder, HaltonOrder, RandomOrder
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.solvers import DDIM, DPMSolver

GRID = (16, 16)


def _sampler(*overrides: str) -> Sampler:
    return build_sampler(compose_settings("generate", overrides))


def _plan(*overrides: str) -> Plan:
    return _sampler(*overrides).plan(GRID)


@pytest.mark.parametrize(
    ("name", "num_steps", "first", "last"),
    [
        ("mar", 64, 100, 100),
        ("gtr", 32, 50, 20),
        ("gtr_19", 19, 50, 20),
        ("gtr_16", 16, 50, 20),
        ("disa", 64, 50, 5),
        ("halton", 64, 100, 100),
        ("raster", 64, 100, 100),
        ("subsample", 64, 100, 100),
        ("mar_reduced", 32, 50, 50),
    ],
)
def test_presets(name: str, num_steps: int, first: int, last: int) -> None:
    steps = _plan(f"sampler={name}").steps
    assert len(steps) == num_steps
    assert (steps[0].num_diffusion_steps, steps[-1].num_diffusion_steps) == (first, last)


def test_parts_by_name() -> None:
    assert isinstance(_sampler("sampler=mar", "sampler.order=halton").order, HaltonOrder)
    assert isinstance(_sampler("sampler=mar", "sampler.solver=ddim").solver, DDIM)
    annealed = _sampler("sampler=gtr", "sampler.diffusion_steps=disa")
    assert isinstance(annealed.diffusion_steps, AnnealedDiffusionSteps)
    assert isinstance(annealed.order, BisectionOrder)
    plain = _plan("sampler=gtr", "sampler.selection=none")
    assert all(step.num_detail_tokens == 0 for step in plain.steps)
    enhanced = _plan("sampler=gtr", "sampler.selection=all")
    assert [step.num_detail_tokens for step in enhanced.steps[-2:]] == [64, 64]


@pytest.mark.parametrize("preset", ["gtr_19", "gtr_16", "gtr_lightgen"])
def test_parts_of_a_preset_of_gtr_can_be_exchanged(preset: str) -> None:
    """Their members hold what they change, so nothing of it is left behind."""
    steps = ["sampler/order=halton", "sampler/step_sizes=cosine", "sampler.num_iter=8"]
    assert len(_plan(f"sampler={preset}", *steps, "sampler/diffusion_steps=constant").steps) == 8


def test_gtr_for_lightgen() -> None:
    plan = _sampler("sampler=gtr_lightgen").plan((32, 32))
    assert [sum(step.stage == stage for step in plan.steps) for stage in range(4)] == [8, 3, 3, 2]


@pytest.mark.parametrize("choice", ["sampler/order=gtr", "sampler.order=gtr"])
def test_a_chosen_part_can_be_changed(choice: str) -> None:
    order = _sampler(
        "sampler=mar", choice, "sampler.order.num_stages=4", "sampler.order.first_parity=odd"
    ).order
    assert isinstance(order, BisectionOrder)
    assert (order.num_stages, order.first_parity) == (4, "odd")


def test_every_part_of_a_preset_can_be_exchanged() -> None:
    sampler = _sampler(
        *("sampler=gtr_19", "sampler/order=random", "sampler/step_sizes=cosine", "sampler.num_iter=8"),
        *("sampler/diffusion_steps=constant", "sampler/selection=none", "sampler/solver=dpm_solver"),
    )
    assert isinstance(sampler.order, RandomOrder) and isinstance(sampler.solver, DPMSolver)
    assert {step.num_diffusion_steps for step in sampler.plan(GRID).steps} == {50}


def test_parts_that_are_named_are_choices_of_their_group() -> None:
    """So they come from every folder that Hydra searches; what is no name stays as it is."""
    assert group_choices(["sampler.order=gtr"]) == ["sampler/order=gtr"]
    changed = ["sampler.order=gtr,halton", "sampler.order.a=1", "model.order=b"]
    assert group_choices(changed) == ["sampler/order=gtr,halton", *changed[1:]]
    kept = ["cache.head=null", "sampler.order={_target_: a.B}", "sampler.solver=my.Solver", "sampler.nope=a"]
    kept += ["sampler.guidance_scale=a", "sampler.order._target_=my.Order", "~sampler.order", "sampler=gtr"]
    assert group_choices(kept) == kept


def test_a_part_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_orders.py").write_text(
        "import torch\n"
        "from mar_accel.sampling.orders import Order\n"
        "class Columns(Order):\n"
        "    def permutation(self, grid, generator):\n"
        "        return torch.arange(grid[0] * grid[1]).view(grid).T.flatten()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sampler = _sampler("sampler=mar", "sampler.order._target_=my_orders.Columns")
    order = sampler.draw(sampler.plan((16, 16)), 0, [0], token_dim=1).order[0]
    assert order[:3].tolist() == [0, 16, 32]


def test_keys_of_gtr() -> None:
    plan = _plan(
        *("sampler=gtr", "sampler.num_diffusion_steps=60", "sampler.diffusion_steps.reconstruction_steps=15"),
        *("sampler.selection.fraction=0.25", "sampler.selection.num_diffusion_steps=80"),
        "sampler.step_sizes.steps=[4,2,2]",
    )
    assert [step.num_diffusion_steps for step in plan.steps] == [60, 52, 44, 36, 28, 20, 15, 15]
    assert [step.num_detail_tokens for step in plan.steps] == [0] * 6 + [16, 16]
    assert plan.steps[-1].num_detail_diffusion_steps == 80
    assert len(_plan("sampler=gtr", "sampler.num_iter=24").steps) == 24


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["sampler=gtr", "sampler.step_sizes.rates=[2.67,64]"],
            "rates must have .* the 3 stages of .* got 2",
        ),
        (
            ["sampler=gtr", "sampler.order.num_stages=9", "sampler/step_sizes=cosine"],
            "num_iter must be an integer .* got null",
        ),
        (
            ["sampler=mar", "sampler/order=gtr", "sampler.order.num_stages=9"],
            "num_stages must be ≤ 6 .* got 9",
        ),
        (["sampler=gtr", "sampler.selection.fraction=1.5"], r"fraction must be between 0 and 1, got 1\.5"),
        (
            ["sampler=gtr", "sampler.selection.num_diffusion_steps=10"],
            "num_diffusion_steps must be ≥ 20, .* got 10",
        ),
        (["sampler=mar", "sampler.num_diffusion_steps=1001"], "num_diffusion_steps must be .* got 1001"),
        (["sampler=mar", "sampler.order=spiral"], "sampler.order=spiral is unknown; choose one of gtr, "),
        (["sampler=mar", "sampler.diffusion_steps=gtr"], "needs at least 2 stages"),
        (["sampler=mar", "sampler.selection=fts"], "num_diffusion_steps must be ≥ 100"),
    ],
)
def test_bad_configs_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(*overrides)


OWN_PARTS = """
import torch
from mar_accel.sampling.guidance import GuidanceSchedule
from mar_accel.sampling.orders import Order
from mar_accel.sampling.step_sizes import StepSizes

class Columns(Order):
    def permutation(self, grid, generator):
        return torch.arange(grid[0] * grid[1]).view(grid).T.flatten()

class Halves(Columns):
    def stage_sizes(self, grid):
        return (grid[0] * grid[1] // 2,) * 2

class Eights(StepSizes):
    def sizes(self, stage_sizes):
        return [8] * (sum(stage_sizes) // 8)

class LateHalf(GuidanceSchedule):
    def scale(self, guidance_scale, progress):
        return guidance_scale if progress.decoded > 0.5 else 1
"""
PRESETS = [
    "mar",
    "mar_256",
    "mar_reduced",
    "gtr",
    "gtr_19",
    "gtr_16",
    "disa",
    "halton",
    "raster",
    "subsample",
]


@pytest.mark.parametrize("preset", PRESETS)
def test_parts_of_ones_own_fit_every_preset(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_parts.py").write_text(OWN_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    parts = importlib.import_module("my_parts")

    sampler = _sampler(f"sampler={preset}")
    sampler.order = parts.Columns()
    order = sampler.draw(sampler.plan(GRID), 0, [0], token_dim=1).order[0]
    assert order[:2].tolist() == [0, 16]

    sampler = _sampler(f"sampler={preset}")
    sampler.step_sizes, sampler.guidance_schedule = parts.Eights(), parts.LateHalf()
    steps = sampler.plan(GRID).steps
    assert [step.num_tokens for step in steps] == [8] * 32
    assert [step.guided for step in steps] == [False] * 16 + [True] * 16

    sampler = _sampler(f"sampler={preset}")
    sampler.order = parts.Halves()
    if preset.startswith("gtr"):
        with pytest.raises(ConfigError, match=r"rates must have .* the 2 stages of sampler\.order, got \d"):
            sampler.plan(GRID)
    else:
        assert sampler.plan(GRID).steps[-1].stage == 1


@pytest.mark.parametrize("over", ["decoded", "ar_time", "timestep"])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_interval_of_guidance_fits_every_preset(preset: str, over: str) -> None:
    low, high = ("200", "600") if over == "timestep" else ("0.1", "0.6")
    keys = [f"sampler.guidance_schedule.{key}" for key in ("over", "low", "high")]
    interval = ["sampler/guidance_schedule=interval", f"{keys[0]}={over}", f"{keys[1]}={low}"]
    steps = _plan(f"sampler={preset}", *interval, f"{keys[2]}={high}").steps
    guided = sum(step.guided for step in steps)
    assert guided == len(steps) if over == "timestep" else 0 < guided < len(steps)
