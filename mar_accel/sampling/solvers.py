"""Head solvers: chains from noise to tokens, as plain functions of a denoiser and a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import DiffusionSchedule

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler


class Solver(Protocol):
    """Turns noise into tokens by repeated noise prediction."""

    # Whether the chain evaluates the head once per timestep, from the noisiest to the cleanest.
    visits_every_timestep: bool

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        """Run a chain for n tokens.

        Args:
            denoise: guided noise prediction.
            noise: [T+1, n, C], float32; see :class:`mar_accel.sampling.noise.SampleNoise`.
            schedule: T timesteps.
            temperature: factor on the noise of ancestral steps.

        Returns:
            Tokens [n, C].
        """
        ...


class DDPM:
    """Ancestral sampling with learned-range variance and without clipping of x₀ (MAR's published sampler)."""

    visits_every_timestep = True

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        c = schedule.coefficients
        x = noise[0]
        for j, i in enumerate(reversed(range(schedule.num_steps)), start=1):
            epsilon, v = denoise(x, i)
            x0 = x * float(c.sqrt_recip_alphas_cumprod[i]) - epsilon * float(c.sqrt_recipm1_alphas_cumprod[i])
            x = x0 * float(c.posterior_x0_coef[i]) + x * float(c.posterior_xt_coef[i])
            if i == 0:
                break
            # log σ² = f·log β + (1−f)·log β̃ with f = (v+1)/2; half of it is the deviation's logarithm.
            low, high = float(c.posterior_log_variance[i]), float(c.log_betas[i])
            log_deviation = (v + 1) * ((high - low) / 4) + low / 2
            x = torch.addcmul(x, log_deviation.exp_(), noise[j], value=temperature)
        return x


class DDIM:
    """DDIM (arXiv:2010.02502) on the respaced timesteps, by diffusers' scheduler.

    Args:
        eta: 0: deterministic after the starting noise; 1: as much noise as ancestral sampling with the
            posterior variance, scaled by the temperature. 0..1.
    """

    visits_every_timestep = True

    def __init__(self, eta: float = 0.0):
        if not 0 <= eta <= 1:
            raise ConfigError(f"sampler.solver.eta={eta} is out of range; choose 0 (deterministic) to 1.")
        self.eta = eta
        self._schedulers: dict[DiffusionSchedule, DDIMScheduler] = {}

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        scheduler, x = self._scheduler(schedule), noise[0]
        for j, i in enumerate(reversed(range(schedule.num_steps)), start=1):
            epsilon, _ = denoise(x, i)
            fresh = noise[j] * temperature if self.eta else None
            x = scheduler.step(epsilon.float(), i, x, self.eta, variance_noise=fresh, return_dict=False)[0]
        return x

    def _scheduler(self, schedule: DiffusionSchedule) -> DDIMScheduler:
        if schedule not in self._schedulers:
            from diffusers import DDIMScheduler

            scheduler = DDIMScheduler(
                **_scheduler_settings(schedule), clip_sample=False, set_alpha_to_one=True
            )
            # In float32, 1 − β is too coarse near t = 999.
            scheduler.alphas_cumprod = torch.from_numpy(schedule.coefficients.alphas_cumprod)
            scheduler.set_timesteps(schedule.num_steps)
            self._schedulers[schedule] = scheduler
        return self._schedulers[schedule]


class DPMSolver:
    """DPM-Solver++ (arXiv:2211.01095), multistep, on the respaced timesteps, by diffusers' scheduler.

    Args:
        order: of the solver, 1 to 3.
    """

    visits_every_timestep = True

    def __init__(self, order: int = 2):
        if order not in (1, 2, 3):
            raise ConfigError(f"sampler.solver.order={order} is not available; choose 1, 2 or 3.")
        self.order = order
        self._schedulers: dict[DiffusionSchedule, DPMSolverMultistepScheduler] = {}

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        scheduler, x = self._scheduler(schedule), noise[0]
        descending = list(reversed(range(schedule.num_steps)))
        # The scheduler counts its steps and keeps earlier outputs: this makes it forget the previous chain.
        scheduler.set_timesteps(timesteps=descending)
        scheduler.set_begin_index(0)
        for i in descending:
            epsilon, _ = denoise(x, i)
            x = scheduler.step(epsilon.float(), i, x, return_dict=False)[0]
        return x

    def _scheduler(self, schedule: DiffusionSchedule) -> DPMSolverMultistepScheduler:
        if schedule not in self._schedulers:
            from diffusers import DPMSolverMultistepScheduler

            scheduler = DPMSolverMultistepScheduler(
                **_scheduler_settings(schedule),
                algorithm_type="dpmsolver++",
                solver_order=self.order,
                final_sigmas_type="zero",
                lower_order_final=True,
            )
            scheduler.alphas_cumprod = torch.from_numpy(schedule.coefficients.alphas_cumprod)
            self._schedulers[schedule] = scheduler
        return self._schedulers[schedule]


def _scheduler_settings(schedule: DiffusionSchedule) -> dict[str, Any]:
    """A chain's kept timesteps as if they were a whole training schedule of T timesteps 0 … T−1.

    So diffusers' schedulers step from one kept timestep to the next, whatever the respacing and the clip,
    and from the first to x₀. Their tables stay on the CPU; single values of them meet GPU tensors as numbers
    do, without waiting for the GPU.
    """
    return {
        "num_train_timesteps": schedule.num_steps,
        "trained_betas": schedule.coefficients.betas.tolist(),
        "prediction_type": "epsilon",
    }
