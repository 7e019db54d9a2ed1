"""Every plan is a partition, whatever it is made of; what makes none is refused with its reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampler
from mar_accel.sampling.diffusion_steps import (
    AnnealedDiffusionSteps,
    ConstantDiffusionSteps,
    DiffusionSteps,
    StageAwareDiffusionSteps,
)
from mar_accel.sampling.guidance import LinearGuidance
from mar_accel.sampling.orders import (
    BisectionOrder,
    HaltonOrder,
    Order,
    RandomOrder,
    RasterOrder,
    SubsampleOrder,
    halved,
)
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import FrequencySelection, NoSelection, RandomSelection, TokenSelection
from mar_accel.sampling.solvers import DDPM
from mar_accel.sampling.step_sizes import CosineSteps, StageSteps, StepSizes, shared_out


def make_sampler(
    order: Order,
    step_sizes: StepSizes,
    diffusion_steps: DiffusionSteps | None = None,
    selection: TokenSelection | None = None,
    **settings: Any,
) -> Sampler:
    return Sampler(
        order=order,
        step_sizes=step_sizes,
        guidance_schedule=LinearGuidance(),
        diffusion_steps=diffusion_steps or ConstantDiffusionSteps(10),
        solver=DDPM(),
        selection=selection or NoSelection(),
        guidance_scale=3.0,
        **settings,
    )


def gtr(**settings: Any) -> Sampler:
    parts: dict[str, Any] = {
        "order": BisectionOrder(3),
        "step_sizes": StageSteps([2.67, 10.67, 64]),
        "diffusion_steps": StageAwareDiffusionSteps(50, 20, 20),
        "selection": FrequencySelection(0.1, 50),
    }
    return make_sampler(**(parts | settings))


def assert_partition(sampler: Sampler, grid: tuple[int, int], seed: int) -> Plan:
    plan = sampler.plan(grid)
    order = sampler.draw(plan, seed, [0], token_dim=1).order[0]
    decoded = [position for step in plan.steps for position in order[step.start : step.stop].tolist()]
    assert sorted(decoded) == list(range(grid[0] * grid[1]))
    assert all(step.num_tokens >= 1 for step in plan.steps)
    assert all(0 <= step.num_detail_tokens <= step.num_tokens for step in plan.steps)
    assert [step.index for step in plan.steps] == list(range(len(plan.steps)))
    stages = [step.stage for step in plan.steps]
    assert stages == sorted(stages)
    scales = [step.guidance_scale for step in plan.steps]
    assert scales == sorted(scales) and scales[0] > 1 and scales[-1] <= 3
    return plan


orders = st.one_of(
    st.builds(BisectionOrder, st.integers(1, 4), st.sampled_from(["even", "odd"])),
    st.builds(HaltonOrder, st.booleans()),
    st.builds(SubsampleOrder, st.integers(1, 3)),
    st.just(RandomOrder()),
    st.just(RasterOrder()),
)
grids = st.tuples(st.integers(2, 13), st.integers(2, 13))


def _fits(order: Order, grid: tuple[int, int]) -> bool:
    try:
        return bool(order.stage_sizes(grid))
    except ConfigError:
        return False


@settings(deadline=None, max_examples=60)
@given(order=orders, grid=grids, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_cosine_plans_are_partitions(order: Order, grid: tuple[int, int], share: float, seed: int) -> None:
    assume(_fits(order, grid))
    num_iter = 1 + round(share * (grid[0] * grid[1] - 1))
    plan = assert_partition(make_sampler(order, CosineSteps(num_iter)), grid, seed)
    assert len(plan.steps) == num_iter


@settings(deadline=None, max_examples=100)
@given(
    order=orders,
    grid=grids,
    rates=st.lists(st.floats(1, 300), min_size=4, max_size=4),
    split=st.sampled_from(["uniform", "cosine"]),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_rates_make_partitions(
    order: Order, grid: tuple[int, int], rates: list[float], split: str, fraction: float, seed: int
) -> None:
    assume(_fits(order, grid))
    stage_sizes = order.stage_sizes(grid)
    if len(stage_sizes) == 1:
        assume(grid[0] * grid[1] >= 8)
        stage_sizes = halved(stage_sizes[0], 4)
    rates = rates[: len(stage_sizes)]
    selection = RandomSelection(fraction, 50)
    sampler = make_sampler(order, StageSteps(rates, split=split), selection=selection)
    plan = assert_partition(sampler, grid, seed)
    for stage, (size, rate) in enumerate(zip(stage_sizes, rates, strict=True)):
        sizes = [step.num_tokens for step in plan.steps if step.stage == stage]
        assert sum(sizes) == size and len(sizes) == max(1, round(size / rate))
        assert split == "cosine" or max(sizes) - min(sizes) <= 1
    assert sum(step.num_detail_tokens for step in plan.steps if step.stage < len(stage_sizes) - 1) == 0


@settings(deadline=None, max_examples=60)
@given(grid=grids, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_num_iter_is_shared_out(grid: tuple[int, int], share: float, seed: int) -> None:
    order = BisectionOrder(3)
    assume(_fits(order, grid))
    num_iter = 3 + round(share * (grid[0] * grid[1] - 3))
    plan = assert_partition(make_sampler(order, StageSteps([2.67, 10.67, 64], num_iter=num_iter)), grid, seed)
    assert len(plan.steps) == num_iter


def test_num_iter_as_the_rates_give_changes_nothing() -> None:
    assert shared_out(32, [64 / 2.67, 64 / 10.67, 2], [64, 64, 128]) == [24, 6, 2]


def test_gtr_on_the_published_grid() -> None:
    plan = gtr().plan((16, 16))
    assert [sum(step.stage == stage for step in plan.steps) for stage in range(3)] == [24, 6, 2]
    last = [(step.num_tokens, step.num_diffusion_steps, step.num_detail_tokens) for step in plan.steps[-2:]]
    assert last == [(64, 20, 6)] * 2
    assert all(step.num_detail_tokens == 0 for step in plan.steps[:-2])
    assert plan.max_timestep == 950 and plan.max_diffusion_steps == 50
    assert plan.steps[-1].guidance_scale == 3.0


@pytest.mark.parametrize(
    ("name", "steps"), [("gtr", [24, 6, 2]), ("gtr_19", [13, 4, 2]), ("gtr_16", [12, 3, 1])]
)
def test_the_readings_of_gtrs_steps(name: str, steps: list[int]) -> None:
    """The rates as printed, at the printed FLOPs, and with twice the printed rates."""
    plan = build_sampler(compose_settings("generate", [f"sampler={name}"])).plan((16, 16))
    assert [sum(step.stage == stage for step in plan.steps) for stage in range(3)] == steps
    # On four times as many tokens, each stage takes about four times as many steps.
    large = build_sampler(compose_settings("generate", [f"sampler={name}"])).plan((32, 32))
    assert [sum(step.stage == stage for step in large.steps) for stage in range(3)] == [4 * n for n in steps]


def test_four_stages() -> None:
    four = gtr(order=BisectionOrder(4), step_sizes=StageSteps([2.67, 10.67, 64, 64])).plan((16, 16))
    assert [sum(step.stage == stage for step in four.steps) for stage in range(4)] == [12, 3, 1, 2]


def test_explicit_steps_win_over_rates() -> None:
    plan = gtr(step_sizes=StageSteps([2.67, 10.67, 64], steps=[8, 4, 2])).plan((16, 16))
    assert [sum(step.stage == stage for step in plan.steps) for stage in range(3)] == [8, 4, 2]


def test_an_order_without_stages_gets_gtrs_schedule_by_halving() -> None:
    plan, staged = gtr(order=HaltonOrder()).plan((16, 16)), gtr().plan((16, 16))
    assert plan == staged


def test_disas_schedules() -> None:
    steps = CosineSteps(9).split([64])
    assert AnnealedDiffusionSteps(50, 5).per_step(steps) == [50, 44, 38, 33, 27, 21, 16, 10, 5]
    assert AnnealedDiffusionSteps(50, 5, "two-stage").per_step(steps) == [50] * 4 + [5] * 5
    assert AnnealedDiffusionSteps(50, 5, "cosine").per_step(CosineSteps(1).split([64])) == [50]


def test_max_timestep_is_clipped_only_for_short_schedules() -> None:
    order, steps = RandomOrder(), CosineSteps(4)
    assert make_sampler(order, steps, ConstantDiffusionSteps(100)).plan((4, 4)).max_timestep is None
    assert make_sampler(order, steps, ConstantDiffusionSteps(99)).plan((4, 4)).max_timestep == 950
    assert make_sampler(order, steps, max_timestep=None).plan((4, 4)).max_timestep is None
    assert make_sampler(order, steps, max_timestep=900).plan((4, 4)).max_timestep == 900


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a stage without a rate": (
        {"step_sizes": (StageSteps, [2.67, 64])},
        "rates must have .* the 3 stages of .* got 2",
    ),
    "a rate below a token": (
        {"step_sizes": (StageSteps, [0, 10, 64])},
        r"rates must be .* got \[0, 10, 64\]",
    ),
    "no rates": ({"step_sizes": (StageSteps, [])}, "rates is empty"),
    "a stage without steps": (
        {"step_sizes": (StageSteps, None, [3, 0, 2])},
        r"steps must be integers ≥ 1 .* got \[3, 0, 2\]",
    ),
    "more steps than tokens": (
        {"step_sizes": (StageSteps, None, [65, 1, 2])},
        "steps must be ≤ 64 for a stage of 64 tokens, got 65",
    ),
    "an unknown split": (
        {"step_sizes": (StageSteps, [1], None, None, "half")},
        r"step_sizes\.split must be .* got half",
    ),
    "fewer steps than stages": (
        {"step_sizes": (StageSteps, [1, 1, 1], None, 2)},
        "num_iter must be between 3 and 256 .* got 2",
    ),
    "more steps than all tokens": (
        {"step_sizes": (CosineSteps, 257)},
        "num_iter must be between 1 and 256 .* got 257",
    ),
    "no number of steps": ({"step_sizes": (CosineSteps, None)}, "num_iter must be an integer .* got null"),
    "more stages than the grid gives": ({"order": (BisectionOrder, 7)}, "num_stages must be ≤ 6 .* got 7"),
    "β above 1": ({"selection": (FrequencySelection, 1.1, 50)}, r"selection\.fraction must be .* got 1\.1"),
    "β below 0": ({"selection": (FrequencySelection, -0.1, 50)}, r"selection\.fraction must be .* got -0\.1"),
    "T_detail below T_rec": (
        {"selection": (FrequencySelection, 0.1, 19)},
        "steps must be ≥ 20, .* got 19",
    ),
    "T_detail beyond the head": (
        {"selection": (FrequencySelection, 0.1, 1001)},
        "num_diffusion_steps must be between 1 and 1000 .* got 1001",
    ),
    "T beyond the head": (
        {"diffusion_steps": (ConstantDiffusionSteps, 1001), "selection": (NoSelection,)},
        "num_diffusion_steps must be between 1 and 1000 .* got 1001",
    ),
    "T_rec of 0": (
        {"diffusion_steps": (StageAwareDiffusionSteps, 50, 20, 0)},
        "per_step must return a list of integers ≥ 1, got 0 at AR step",
    ),
    "T_min of 0": (
        {"diffusion_steps": (StageAwareDiffusionSteps, 50, 0, 20)},
        "per_step must return a list of integers ≥ 1, got 0 at AR step",
    ),
    "DiSA that grows": (
        {"diffusion_steps": (AnnealedDiffusionSteps, 4, 5)},
        "last_steps must be ≤ first_steps=4, got 5",
    ),
    "an unknown strategy": (
        {"diffusion_steps": (AnnealedDiffusionSteps, 9, 5, "sine")},
        "strategy must be .* got sine",
    ),
    "no stages for GtR's T": (
        {"order": (RandomOrder,), "step_sizes": (CosineSteps, 8)},
        "needs at least 2 stages",
    ),
    "a clip beyond the head": (
        {"max_timestep": (int, 1000)},
        "max_timestep must be between 0 and 999.* got 1000",
    ),
    "an unknown clip": ({"max_timestep": (str, "never")}, "max_timestep must be .* got never"),
}


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_bad_input_is_refused(case: str) -> None:
    parts, message = REFUSALS[case]
    with pytest.raises(ConfigError, match=message) as error:
        gtr(**{key: make(*arguments) for key, (make, *arguments) in parts.items()}).plan((16, 16))
    assert str(error.value).startswith("sampler.")


def test_halving_needs_enough_tokens() -> None:
    with pytest.raises(ConfigError, match="cannot be halved"):
        gtr(order=RandomOrder()).plan((1, 3))


def test_draws_belong_to_the_sample() -> None:
    sampler = gtr()
    plan = sampler.plan((4, 4))
    both, alone = sampler.draw(plan, 5, [3, 8], 2), sampler.draw(plan, 5, [8], 2)
    assert torch.equal(both.order[1], alone.order[0]) and torch.equal(both.noise[:, 1], alone.noise[:, 0])
