"""Head solvers: chains from noise to tokens, as plain functions of a denoiser and a schedule."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import DiffusionSchedule


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
