"""How many diffusion steps the tokens of each AR step get."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mar_accel.errors import ConfigError
from mar_accel.sampling.step_sizes import StepSize
from mar_accel.utils.readable import Readable


class DiffusionSteps(Readable):
    """Maps AR steps to numbers of diffusion steps."""

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        """T of each AR step."""
        raise NotImplementedError


class ConstantDiffusionSteps(DiffusionSteps):
    """The same T at every AR step.

    Args:
        num_diffusion_steps: T, in 1..1000.
    """

    def __init__(self, num_diffusion_steps: int = 100):
        self.num_diffusion_steps = num_diffusion_steps

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        return [self.num_diffusion_steps] * len(steps)


class StageAwareDiffusionSteps(DiffusionSteps):
    """GtR: T changes linearly over the generation stages, the last stage (reconstruction) has its own T.

    T_s = round(T_max − (T_max − T_min)·s/(n−1)) at the s-th of the n AR steps of the generation stages
    (arXiv:2510.17171).

    Args:
        first_steps: T_max, at the first AR step; 1..1000.
        last_steps: T_min, at the last AR step before the reconstruction; 1..1000.
        reconstruction_steps: T_rec; 1..1000.
    """

    def __init__(self, first_steps: int = 50, last_steps: int = 20, reconstruction_steps: int = 20):
        self.first_steps = first_steps
        self.last_steps = last_steps
        self.reconstruction_steps = reconstruction_steps

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        last_stage = steps[-1].stage
        num_generation = sum(step.stage < last_stage for step in steps)
        if not num_generation:
            raise ConfigError(
                "sampler.diffusion_steps=gtr needs more than one stage, but this order has one; "
                "choose sampler.order=gtr or sampler.step_sizes=gtr."
            )
        fall = (self.first_steps - self.last_steps) / max(1, num_generation - 1)
        generation = [round(self.first_steps - fall * index) for index in range(num_generation)]
        return generation + [self.reconstruction_steps] * (len(steps) - num_generation)


class AnnealedDiffusionSteps(DiffusionSteps):
    """DiSA: T falls from T_hi at the first AR step to T_lo at the last (arXiv:2505.20297).

    T_k = T_lo + int(f·(T_hi − T_lo)) with f falling from 1 to 0 over the AR steps k = 0 … K−1.

    Args:
        first_steps: T_hi; 1..1000.
        last_steps: T_lo; 1..T_hi.
        strategy: "linear": f = (K−1−k)/(K−1); "cosine": f = (cos(πk/(K−1)) + 1)/2; "two-stage": f = 1 while
            k < (K−1)/2, then 0.
    """

    def __init__(self, first_steps: int = 50, last_steps: int = 5, strategy: str = "linear"):
        if last_steps > first_steps:
            raise ConfigError(
                f"sampler.diffusion_steps.last_steps={last_steps} is above first_steps={first_steps}, but "
                "DiSA's diffusion steps do not grow; lower it or raise sampler.num_diffusion_steps."
            )
        if strategy not in ("linear", "cosine", "two-stage"):
            raise ConfigError(
                f"sampler.diffusion_steps.strategy={strategy} is unknown; choose linear, cosine or two-stage."
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
