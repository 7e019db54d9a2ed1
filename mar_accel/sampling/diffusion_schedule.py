"""Respaced diffusion schedules of the head: which of the 1000 training timesteps a chain visits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS, DiffusionCoefficients, cosine_alphas_cumprod


@dataclass(frozen=True)
class DiffusionSchedule:
    """The timesteps of a chain and the constants of its steps.

    Attributes:
        timesteps: original timesteps in 0..999, growing; a chain visits them from the last to the first.
        coefficients: constants per kept timestep, recomputed from the kept cumulative alphas.
    """

    timesteps: tuple[int, ...]
    coefficients: DiffusionCoefficients

    @property
    def num_steps(self) -> int:
        """Number of head evaluations; smaller than asked for where ``max_timestep`` merged some."""
        return len(self.timesteps)


@lru_cache
def respaced_timesteps(num_steps: int, max_timestep: int | None = None) -> tuple[int, ...]:
    """Timesteps kept of the 1000, growing.

    The float64 running sum of the stride 999/(T-1) is rounded half to even, as the published
    implementation does; the exact multiples would differ at ties.

    Args:
        num_steps: T, in 1..1000.
        max_timestep: timesteps above it are replaced by it and merge (DiSA uses 950); None: no clip.
    """
    if not 1 <= num_steps <= NUM_TRAIN_TIMESTEPS:
        raise ConfigError(
            f"sampler.num_diffusion_steps: {num_steps} diffusion steps are not possible with a head trained "
            f"on {NUM_TRAIN_TIMESTEPS} timesteps; choose 1 to {NUM_TRAIN_TIMESTEPS}."
        )
    if max_timestep is not None and not 0 <= max_timestep < NUM_TRAIN_TIMESTEPS:
        raise ConfigError(
            f"sampler.max_timestep={max_timestep} is not a timestep; choose 0 to {NUM_TRAIN_TIMESTEPS - 1}, "
            "or null."
        )
    stride = (NUM_TRAIN_TIMESTEPS - 1) / (num_steps - 1) if num_steps > 1 else 0.0
    position, timesteps = 0.0, []
    for _ in range(num_steps):
        timesteps.append(round(position))
        position += stride
    if max_timestep is not None:
        timesteps = [min(t, max_timestep) for t in timesteps]
    return tuple(sorted(set(timesteps)))


@lru_cache
def diffusion_schedule(num_steps: int, max_timestep: int | None = None) -> DiffusionSchedule:
    """The respaced schedule of T steps; see :func:`respaced_timesteps`."""
    timesteps = respaced_timesteps(num_steps, max_timestep)
    kept = cosine_alphas_cumprod()[np.array(timesteps)]
    return DiffusionSchedule(timesteps, DiffusionCoefficients(kept))
