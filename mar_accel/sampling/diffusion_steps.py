"""How many diffusion steps the tokens of each AR step get."""

from __future__ import annotations

from collections.abc import Sequence

from mar_accel.sampling.step_sizes import StepSize


class DiffusionSteps:
    """Maps AR steps to numbers of diffusion steps."""

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        """T of each AR step."""
        raise NotImplementedError


class ConstantDiffusionSteps(DiffusionSteps):
    """The same T at every AR step.

    Args:
        num_diffusion_steps: T, in 1..1000.
    """

    def __init__(self, num_diffusion_steps: int):
        self.num_diffusion_steps = num_diffusion_steps

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        return [self.num_diffusion_steps] * len(steps)
