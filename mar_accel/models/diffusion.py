"""Diffusion process of the head: cosine schedule, learned-range variance, training loss.

Source: MAR (arXiv:2406.11838, section 3.1), with the process of improved DDPM (arXiv:2102.09672).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000


@lru_cache
def cosine_alphas_cumprod(num_timesteps: int = NUM_TRAIN_TIMESTEPS) -> np.ndarray:
    """Cumulative alphas of the "squaredcos_cap_v2" schedule, float64 [num_timesteps]."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = range(num_timesteps)
    betas = [min(1 - level((i + 1) / num_timesteps) / level(i / num_timesteps), 0.999) for i in steps]
    return np.cumprod(1.0 - np.array(betas, dtype=np.float64))


class DiffusionCoefficients:
    """Constants per timestep of a (respaced) Gaussian diffusion, as float64 arrays of length T.

    Args:
        alphas_cumprod: cumulative alphas of the T timesteps, from low to high noise.
    """

    def __init__(self, alphas_cumprod: np.ndarray):
        previous = np.append(1.0, alphas_cumprod[:-1])
        self.alphas_cumprod = alphas_cumprod
        self.betas = betas = 1.0 - alphas_cumprod / previous
        self.sqrt_alphas_cumprod = np.sqrt(alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1.0 - alphas_cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / alphas_cumprod - 1.0)
        self.log_betas = np.log(betas)
        variance = betas * (1.0 - previous) / (1.0 - alphas_cumprod)
        # The first posterior variance is zero. Its logarithm is replaced by that of the second.
        clipped = np.append(variance[1], variance[1:]) if len(variance) > 1 else betas
        self.posterior_log_variance = np.log(clipped)
        self.posterior_x0_coef = betas * np.sqrt(previous) / (1.0 - alphas_cumprod)
        self.posterior_xt_coef = (1.0 - previous) * np.sqrt(1.0 - betas) / (1.0 - alphas_cumprod)


@lru_cache
def training_coefficients() -> DiffusionCoefficients:
    return DiffusionCoefficients(cosine_alphas_cumprod())


def _at(values: np.ndarray, t: Tensor) -> Tensor:
    """Constants at timesteps t [n], as float32 column [n, 1]."""
    return torch.from_numpy(values).to(t.device)[t].float().unsqueeze(-1)


def add_noise(x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Forward process q(x_t | x_0).

    Args:
        x0: clean tokens [n, C].
        t: timesteps, int64 [n] in 0..999.
        noise: standard normal [n, C].

    Returns:
        Noised tokens x_t [n, C].
    """
    coef = training_coefficients()
    return _at(coef.sqrt_alphas_cumprod, t) * x0 + _at(coef.sqrt_one_minus_alphas_cumprod, t) * noise


def noise_weights(t: Tensor, max_weight: float) -> Tensor:
    """Weights of the noise prediction's MSE at timesteps t [n], 1..max_weight: float32 [n].

    The error of the predicted velocity is 1 + 1/SNR times that of the predicted noise (arXiv:2202.00512,
    section 4). ``max_weight`` limits it, as the noisiest timesteps have an SNR of nearly 0.
    """
    alphas = training_coefficients().alphas_cumprod
    return _at(np.minimum(1.0 / alphas, max_weight), t).squeeze(-1)


def diffusion_loss(
    output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor, max_weight: float = 1.0
) -> Tensor:
    """MSE of the noise prediction plus the variational bound, which trains the variance.

    Args:
        output: head output [n, 2C]: noise prediction and variance interpolation v.
        x0, x_t, noise: clean tokens, noised tokens and noise, [n, C] each.
        t: timesteps, int64 [n] in 0..999.
        max_weight: largest weight of the MSE, see ``noise_weights``; 1 is MAR's loss.

    Returns:
        Loss per token [n]. The bound (in bits) has no gradient for the noise prediction.
    """
    output = output.float()
    epsilon, v = output.chunk(2, dim=-1)
    mse = (epsilon - noise).square().mean(-1) * noise_weights(t, max_weight)
    return mse + _variational_bound(epsilon.detach(), v, x0, x_t, t)


def _variational_bound(epsilon: Tensor, v: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """KL(q(x_{t-1}|x_t,x_0) || p) per token in bits [n]; at t = 0, the negative log-likelihood of x_0."""
    coef = training_coefficients()
    x0_coef, xt_coef = _at(coef.posterior_x0_coef, t), _at(coef.posterior_xt_coef, t)
    true_log_variance = _at(coef.posterior_log_variance, t)
    predicted_x0 = (
        _at(coef.sqrt_recip_alphas_cumprod, t) * x_t - _at(coef.sqrt_recipm1_alphas_cumprod, t) * epsilon
    )
    true_mean = x0_coef * x0 + xt_coef * x_t
    mean = x0_coef * predicted_x0 + xt_coef * x_t
    fraction = (v + 1) / 2
    log_variance = fraction * _at(coef.log_betas, t) + (1 - fraction) * true_log_variance
    kl = 0.5 * (
        log_variance
        - true_log_variance
        - 1.0
        + torch.exp(true_log_variance - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
    )
    nll = -_discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    return torch.where(t == 0, nll.mean(-1), kl.mean(-1)) / math.log(2.0)


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Elementwise log-likelihood under a Gaussian of x in -1..1, discretised to bins of 2/255."""

    def normal_cdf(value: Tensor) -> Tensor:
        # The tanh approximation is part of the published loss.
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3)))

    centered, inverse_scale = x - mean, torch.exp(-log_scale)
    cdf_upper = normal_cdf(inverse_scale * (centered + 1.0 / 255.0))
    cdf_lower = normal_cdf(inverse_scale * (centered - 1.0 / 255.0))
    probability = torch.where(
        x < -0.999, cdf_upper, torch.where(x > 0.999, 1.0 - cdf_lower, cdf_upper - cdf_lower)
    )
    return probability.clamp(min=1e-12).log()
