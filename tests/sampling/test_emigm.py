"""eMIGM's sampling parts: step sizes of a rate, its solver, and what a published setting costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mar_accel import MARPipeline
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.session import Session
from mar_accel.models.mar import MARConfig
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling.diffusion_steps import ConstantDiffusionSteps
from mar_accel.sampling.guidance import ConstantGuidance, IntervalGuidance
from mar_accel.sampling.log_snr_schedule import LogSNRSchedule, log_snr_schedule
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.rate_steps import FUNCTIONS, RateSteps
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.singlestep import DPMSolverSinglestep

MEAN, DEVIATION = 0.7, 0.5


class ExactDenoiser:
    """The exact noise prediction for tokens that are normal with MEAN and DEVIATION."""

    def __init__(self, schedule: LogSNRSchedule):
        self.nodes = [node for block in schedule.blocks for node in block.nodes[:-1]][::-1]
        self.visited: list[int] = []

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        self.visited.append(index)
        node = self.nodes[index]
        variance = (node.alpha * DEVIATION) ** 2 + node.sigma**2
        return node.sigma * (x - node.alpha * MEAN) / variance, torch.zeros_like(x)


def _exact(schedule: LogSNRSchedule, start: Tensor) -> Tensor:
    """The solution of the probability flow ODE at the end of the chain: every token keeps its quantile."""
    first, last = schedule.blocks[0].nodes[0], schedule.blocks[-1].nodes[-1]

    def deviation(alpha: float, sigma: float) -> float:
        return ((alpha * DEVIATION) ** 2 + sigma**2) ** 0.5

    quantile = (start - first.alpha * MEAN) / deviation(first.alpha, first.sigma)
    return last.alpha * MEAN + deviation(last.alpha, last.sigma) * quantile


def test_solver_converges_to_the_exact_solution() -> None:
    noise = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for num_steps in (8, 14, 29, 59):
        schedule = log_snr_schedule(num_steps)
        denoise = ExactDenoiser(schedule)
        tokens = DPMSolverSinglestep().sample(denoise, noise, schedule, 1.0)
        assert denoise.visited == list(reversed(range(num_steps)))
        errors.append(float((tokens - _exact(schedule, noise[0])).abs().max()))
    assert errors[3] < errors[2] < errors[1] < errors[0] < 0.2 and errors[3] < 2e-3


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 50, 100, 999, 1000])
def test_every_number_of_evaluations_is_possible(num_steps: int) -> None:
    schedule = log_snr_schedule(num_steps)
    assert schedule.num_steps == num_steps == sum(block.order for block in schedule.blocks)
    descending = np.array(schedule.timesteps[::-1])
    assert (np.diff(descending) < 0).all() and descending[-1] > 0 and descending[0] < 999
    noise = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    tokens = DPMSolverSinglestep().sample(ExactDenoiser(schedule), noise, schedule, 1.0)
    assert tokens.isfinite().all() and tokens.abs().max() < 4


def test_number_of_evaluations_out_of_range() -> None:
    sampler = Sampler(diffusion_steps=ConstantDiffusionSteps(1001), solver=DPMSolverSinglestep())
    with pytest.raises(ConfigError, match=r"sampler\.num_diffusion_steps must be between 1 and 1000"):
        sampler.plan((16, 16))


def test_no_clip_and_one_noise_vector() -> None:
    steps, few = RateSteps(4), ConstantDiffusionSteps(8)
    sampler = Sampler(step_sizes=steps, diffusion_steps=few, solver=DPMSolverSinglestep())
    for clip in ("auto", 950, None):
        sampler.max_timestep = clip  # type: ignore[assignment]
        plan = sampler.plan((4, 4))
        assert plan.max_timestep is None and plan.num_draws == 1
        assert plan.schedules[8].timesteps[-1] == pytest.approx(998.996, abs=1e-3)
    assert sampler.draw(plan, 0, [0, 1], 4).noise.shape == (1, 2, 16, 4)
    sampler.max_timestep = 1000
    with pytest.raises(ConfigError, match=r"sampler\.max_timestep must be between 0 and 999"):
        sampler.plan((4, 4))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("num_iter", [1, 2, 8, 64, 256])
def test_expected_sizes(function: str, num_iter: int) -> None:
    sizes = RateSteps(num_iter, function).sizes([256])  # type: ignore[arg-type]
    assert len(sizes) == num_iter and sum(sizes) == 256 and min(sizes) >= 1


def test_more_steps_than_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.num_iter must be between 1 and 16 .* got 17"):
        RateSteps(17).split([16])


def test_drawn_sizes_follow_the_seed_and_have_the_expected_mean() -> None:
    steps = RateSteps(16, draw="bernoulli")
    drawn = [steps.for_seed(seed).sizes([256]) for seed in range(300)]
    assert steps.for_seed(5).sizes([256]) == drawn[5] and len({tuple(sizes) for sizes in drawn}) > 250
    assert all(sum(sizes) == 256 and min(sizes) >= 1 for sizes in drawn)
    known = np.cumsum([sizes for sizes in drawn if len(sizes) == 16], axis=1).mean(0)
    # The spread of the known tokens is at most 8, so their mean over 300 draws is within 1.5.
    assert known == pytest.approx(np.cumsum(RateSteps(16).sizes([256])), abs=1.5)


def test_drawn_sizes_may_end_early_and_keep_their_ar_time() -> None:
    """With a token per step at least, K = L leaves nothing for the last steps."""
    sizes = RateSteps(64, draw="bernoulli").for_seed(0).split([64])
    assert len(sizes) < 64
    schedule = IntervalGuidance("ar_time", 0.5, 1.0, "constant")
    sampler = Sampler(
        step_sizes=RateSteps(64, draw="bernoulli"), guidance_schedule=schedule, guidance_scale=2.0
    )
    plan = sampler.plan((8, 8))
    assert [step.guided for step in plan.steps] == [step.index < 32 for step in plan.steps]


def test_images_of_a_run_share_drawn_sizes(tiny_model: list[str]) -> None:
    """Sizes come from the seed, not from the first image of a batch."""
    overrides = [*tiny_model, "sampler=emigm", "sampler.step_sizes.draw=bernoulli", "sampler.num_iter=8"]
    sessions = [
        Session.from_settings(compose_settings("generate", [*overrides, f"seed={seed}"])) for seed in (1, 2)
    ]
    assert sessions[0].plan.steps != sessions[1].plan.steps
    both, last = (sessions[0].sample(i, torch.tensor([3] * len(i))).tokens for i in ([0, 1], [1]))
    torch.testing.assert_close(both[1:], last, rtol=1e-2, atol=1e-2)


def test_pipeline_draws_sizes_from_its_seed(tiny_model: list[str]) -> None:
    session = Session.from_settings(compose_settings("generate", tiny_model))
    pipe = MARPipeline(session.model, session.autoencoder, name="digits", sampling=session.defaults)
    sizes = []
    for seed in (0, 1):
        pipe([1], sampler="emigm", overrides=["sampler.step_sizes.draw=bernoulli"], num_iter=8, seed=seed)
        assert pipe._last is not None
        sizes.append([step.num_tokens for step in pipe._last.plan.steps])
    assert sizes[0] != sizes[1]


def test_published_setting_of_emigm_base_costs_what_it_should() -> None:
    """MAR-B's architecture, K = 16, 8 evaluations: 1.59 TFLOPs with the interval, 2.61 guided throughout."""
    tflops = []
    for schedule in (IntervalGuidance("ar_time", 0.1, 0.3, "constant"), ConstantGuidance()):
        sampler = Sampler(
            step_sizes=RateSteps(16),
            guidance_schedule=schedule,
            diffusion_steps=ConstantDiffusionSteps(8),
            solver=DPMSolverSinglestep(),
            guidance_scale=4.0,
        )
        tflops.append(count_flops(MARConfig(mask_guidance=True), sampler, NoCache()).total / 1e12)
    assert [round(each, 2) for each in tflops] == [1.59, 2.61]
