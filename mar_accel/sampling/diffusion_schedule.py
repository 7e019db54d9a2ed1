"""Respaced diffusion schedules: the training timesteps (of 1000) that a chain visits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion import NUM_TRAIN_TIMESTEPS, DiffusionCoefficients, cosine_alphas_cumprod


@dataclass(frozen=True)
class ChainSchedule:
    """The timesteps of a chain.

    Attributes:
        timesteps: timesteps on the scale of the training (0..999), ascending. They are integers or fractions.
            A chain visits them from last to first.
    """

    timesteps: tuple[float, ...]

    @property
    def num_steps(self) -> int:
        """Number of head evaluations. It is lower than requested if ``max_timestep`` merged timesteps."""
        return len(self.timesteps)

    @property
    def num_draws(self) -> int:
        """Number of noise vectors that a token needs: one to start with, and one per ancestral step."""
        return self.num_steps + 1


@dataclass(frozen=True)
class DiffusionSchedule(ChainSchedule):
    """The training timesteps of a chain and the constants of its steps.

    Attributes:
        timesteps: training timesteps (0..999), ascending integers.
        coefficients: constants per timestep, recomputed from the remaining cumulative alphas.
    """

    timesteps: tuple[int, ...]
    coefficients: DiffusionCoefficients


@lru_cache
def respaced_timesteps(num_steps: int, max_timestep: int | None = None) -> tuple[int, ...]:
    """Choose T of the 1000 training timesteps, ascending.

    As in the published code, the stride 999/(T-1) is summed in float64 and rounded half to even. Exact
    multiples of the stride would round differently at ties.

    Args:
        num_steps: T, in 1..1000.
        max_timestep: clip, in 0..999; larger timesteps are replaced by it and merged. None: no clip.
            DiSA uses 950.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> respaced_timesteps(4)
        (0, 333, 666, 999)
    """
    check_num_steps(num_steps)
    check_max_timestep(max_timestep)
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


def check_num_steps(num_steps: int) -> None:
    """Reject a number of diffusion steps outside 1..1000."""
    if not 1 <= num_steps <= NUM_TRAIN_TIMESTEPS:
        raise ConfigError(
            f"sampler.num_diffusion_steps must be between 1 and {NUM_TRAIN_TIMESTEPS} (the training "
            f"timesteps of the head), got {num_steps}."
        )


def check_max_timestep(max_timestep: int | None) -> None:
    """Reject a clip outside 0..999."""
    if max_timestep is not None and not 0 <= max_timestep < NUM_TRAIN_TIMESTEPS:
        raise ConfigError(
            f"sampler.max_timestep must be between 0 and {NUM_TRAIN_TIMESTEPS - 1}, or null (no clip), "
            f"got {max_timestep}."
        )
