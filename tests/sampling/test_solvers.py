"""Head solvers against diffusers' schedulers, exact solutions, and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import DiffusionCoefficients, cosine_alphas_cumprod
from mar_accel.sampling.diffusion_schedule import DiffusionSchedule, diffusion_schedule
from mar_accel.sampling.solvers import DDIM, DDPM, DPMSolver, Solver

MEAN, DEVIATION = 0.7, 0.5


class GaussianDenoiser:
    """The exact noise prediction for tokens that are normal with MEAN and DEVIATION, and v = −1 (β̃)."""

    def __init__(self, schedule: DiffusionSchedule):
        self.alphas_cumprod = schedule.coefficients.alphas_cumprod
        self.visited: list[int] = []

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        self.visited.append(index)
        alpha = float(self.alphas_cumprod[index])
        variance = alpha * DEVIATION**2 + 1 - alpha
        return (1 - alpha) ** 0.5 * (x - alpha**0.5 * MEAN) / variance, torch.full_like(x, -1.0)


def _noise(num_steps: int, num_tokens: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_steps + 1, num_tokens, 4, generator=generator, dtype=torch.float64)


def _exact(schedule: DiffusionSchedule, start: Tensor) -> Tensor:
    """The probability flow ODE's solution: it keeps every token's quantile."""
    alpha = float(schedule.coefficients.alphas_cumprod[-1])
    return MEAN + DEVIATION * (start - alpha**0.5 * MEAN) / (alpha * DEVIATION**2 + 1 - alpha) ** 0.5


@pytest.mark.parametrize("max_timestep", [None, 950])
@pytest.mark.parametrize("make", [DDIM, lambda: DPMSolver(1), DPMSolver, lambda: DPMSolver(3)])
def test_ode_solvers_converge_to_the_exact_solution(
    make: Callable[[], Solver], max_timestep: int | None
) -> None:
    errors = []
    for num_steps in (25, 100, 400):
        schedule = diffusion_schedule(num_steps, max_timestep)
        noise = _noise(num_steps)
        tokens = make().sample(GaussianDenoiser(schedule), noise, schedule, 1.0)
        errors.append(float((tokens - _exact(schedule, noise[0])).abs().max()))
    assert errors[2] < errors[1] < errors[0] < 0.2 and errors[2] < 0.02


def test_higher_order_is_more_accurate() -> None:
    schedule, noise = diffusion_schedule(200, 950), _noise(200)
    first, second = (
        (
            DPMSolver(order).sample(GaussianDenoiser(schedule), noise, schedule, 1.0)
            - _exact(schedule, noise[0])
        )
        .abs()
        .mean()
        for order in (1, 2)
    )
    assert second < first / 2


def test_dpm_solver_of_order_1_is_ddim() -> None:
    schedule, noise = diffusion_schedule(20, 950), _noise(20)
    ddim, dpm = (
        solver.sample(GaussianDenoiser(schedule), noise, schedule, 1.0) for solver in (DDIM(), DPMSolver(1))
    )
    torch.testing.assert_close(ddim, dpm, rtol=1e-4, atol=1e-5)


def test_ddim_steps_as_diffusers_on_its_own_timesteps() -> None:
    """Every 40th timestep from 0 is "leading" spacing, which diffusers' scheduler has itself."""
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    scheduler.set_timesteps(25)
    kept = scheduler.timesteps.flip(0).tolist()
    schedule = _schedule_of(kept)
    denoise, noise = GaussianDenoiser(schedule), _noise(25).float()
    x = noise[0]
    for i, t in zip(reversed(range(25)), scheduler.timesteps, strict=True):
        x = scheduler.step(denoise(x, i)[0], int(t), x).prev_sample
    ours = DDIM().sample(denoise, noise, schedule, 1.0)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("num_steps", [4, 20])
def test_dpm_solver_steps_as_diffusers(order: int, num_steps: int) -> None:
    schedule = diffusion_schedule(num_steps, 950)
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", solver_order=order, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=list(reversed(schedule.timesteps)))
    denoise, noise = GaussianDenoiser(schedule), _noise(num_steps).float()
    x = noise[0]
    for i in reversed(range(schedule.num_steps)):
        x = scheduler.step(denoise(x, i)[0], schedule.timesteps[i], x).prev_sample
    ours = DPMSolver(order).sample(denoise, noise, schedule, 1.0)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def _schedule_of(timesteps: list[int]) -> DiffusionSchedule:
    return DiffusionSchedule(
        tuple(timesteps), DiffusionCoefficients(cosine_alphas_cumprod()[np.array(timesteps)])
    )


@pytest.mark.parametrize("make", [DDPM, DDIM, lambda: DDIM(1.0), DPMSolver])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_every_timestep_is_visited_once(make: Callable[[], Solver], num_steps: int) -> None:
    solver, schedule = make(), diffusion_schedule(num_steps, 950)
    denoise = GaussianDenoiser(schedule)
    tokens = solver.sample(denoise, _noise(num_steps), schedule, 1.0)
    assert denoise.visited == list(reversed(range(schedule.num_steps)))
    assert tokens.isfinite().all()
    again = solver.sample(GaussianDenoiser(schedule), _noise(num_steps), schedule, 1.0)
    assert torch.equal(tokens, again), "a chain must not depend on the one before it"


@pytest.mark.parametrize("solver", [DDPM(), DDIM(1.0)])
def test_ancestral_noise_gives_the_data_distribution(solver: Solver) -> None:
    schedule = diffusion_schedule(100, 950)
    tokens = solver.sample(GaussianDenoiser(schedule), _noise(100, 5000), schedule, 1.0)
    assert float(tokens.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(tokens.std()) == pytest.approx(DEVIATION, rel=0.05)


def test_ddim_with_noise_is_ancestral_sampling_with_the_posterior_variance() -> None:
    schedule, noise = diffusion_schedule(50, 950), _noise(50)
    ddim = DDIM(1.0).sample(GaussianDenoiser(schedule), noise, schedule, 0.9)
    ddpm = DDPM().sample(GaussianDenoiser(schedule), noise, schedule, 0.9)
    torch.testing.assert_close(ddim, ddpm, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: DDIM(2), "eta must be .* got 2"), (lambda: DPMSolver(4), "order must be .* got 4")],
)
def test_bad_input_is_refused(make: Callable[[], Solver], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"sampler\.solver\.{message}"):
        make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [lambda: DDIM(0.5), DPMSolver, lambda: DPMSolver(3)])
def test_factors_do_not_depend_on_the_default_dtype(make: Any, dtype: torch.dtype) -> None:
    """A Trainer sets the default dtype to its precision while it samples."""
    schedule = diffusion_schedule(20, 950)
    expected = make().updates(schedule)
    torch.set_default_dtype(dtype)
    try:
        assert make().updates(schedule) == expected
    finally:
        torch.set_default_dtype(torch.float32)
