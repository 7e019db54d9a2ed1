"""Number of diffusion steps at each AR step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le

from mar_accel.errors import ConfigError
from mar_accel.sampling.step_sizes import StepSize, last_stage
from mar_accel.utils.readable import Readable

# A chain visits at most the 1000 timesteps of the training. The config check reads this range.
ChainLength = Annotated[int, Ge(1), Le(1000)]


class DiffusionSteps(Readable, ABC):
    """Sets the number of diffusion steps of each AR step. A custom class defines ``per_step``.

    Example:
        class Halved(DiffusionSteps):
            def per_step(self, steps):
                return [100 if 2 * k < len(steps) else 50 for k in range(len(steps))]
    """

    @abstractmethod
    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        """T of each AR step, integers in 1..1000."""
        raise NotImplementedError


class ConstantDiffusionSteps(DiffusionSteps):
    """The same T at every AR step.

    Args:
        num_diffusion_steps: T, in 1..1000.
    """

    def __init__(self, num_diffusion_steps: ChainLength = 100):
        self.num_diffusion_steps = num_diffusion_steps

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        return [self.num_diffusion_steps] * len(steps)


class StageAwareDiffusionSteps(DiffusionSteps):
    """GtR (arXiv:2510.17171): T changes linearly over the generation stages.

    The generation stages have n AR steps. Step s of them has T_s = round(T_max − (T_max − T_min)·s/(n−1)).
    The last stage (reconstruction) has its own T.

    Args:
        first_steps: T_max, at the first AR step; 1..1000.
        last_steps: T_min, at the last AR step before the reconstruction stage; 1..1000.
        reconstruction_steps: T_rec, at all AR steps of the reconstruction stage; 1..1000.
    """

    def __init__(
        self,
        first_steps: ChainLength = 50,
        last_steps: ChainLength = 20,
        reconstruction_steps: ChainLength = 20,
    ):
        self.first_steps = first_steps
        self.last_steps = last_steps
        self.reconstruction_steps = reconstruction_steps

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        last = last_stage(steps)
        num_generation = sum(step.stage < last for step in steps)
        if not last:
            raise ConfigError(
                "sampler.diffusion_steps=gtr needs at least 2 stages, got 1; "
                "choose sampler/order=gtr or sampler/step_sizes=gtr."
            )
        fall = (self.first_steps - self.last_steps) / max(1, num_generation - 1)
        generation = [round(self.first_steps - fall * index) for index in range(num_generation)]
        return generation + [self.reconstruction_steps] * (len(steps) - num_generation)


class AnnealedDiffusionSteps(DiffusionSteps):
    """DiSA (arXiv:2505.20297): T falls from T_hi at the first AR step to T_lo at the last.

    T_k = T_lo + int(f·(T_hi − T_lo)). The factor f falls from 1 to 0 over the AR steps k = 0 … K−1.

    Args:
        first_steps: T_hi; 1..1000.
        last_steps: T_lo; 1..T_hi.
        strategy: how f falls.
            "linear": f = (K−1−k)/(K−1).
            "cosine": f = (cos(πk/(K−1)) + 1)/2.
            "two-stage": f = 1 for k < (K−1)/2, then 0.
    """

    def __init__(self, first_steps: ChainLength = 50, last_steps: ChainLength = 5, strategy: str = "linear"):
        if last_steps > first_steps:
            raise ConfigError(
                f"sampler.diffusion_steps.last_steps must be ≤ first_steps={first_steps}, got {last_steps}; "
                "lower it or raise sampler.num_diffusion_steps."
            )
        if strategy not in ("linear", "cosine", "two-stage"):
            raise ConfigError(
                f"sampler.diffusion_steps.strategy must be linear, cosine or two-stage, got {strategy}."
            )
        self.first_steps = first_steps
        self.last_steps = last_steps
        self.strategy = strategy

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        last, span = len(steps) - 1, self.first_steps - self.last_steps
        return [self.last_steps + int(self._fraction(k, last) * span) for k in range(len(steps))]

    def _fraction(self, k: int, last: int) -> float:
        if last == 0:
            return 1.0
        if self.strategy == "linear":
            return (last - k) / last
        if self.strategy == "cosine":
            return (math.cos(math.pi * k / last) + 1) / 2
        return float(k < last / 2)
