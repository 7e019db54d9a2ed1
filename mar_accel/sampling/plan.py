"""The plan of a decode: tokens, guidance and diffusion steps of each AR step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mar_accel.sampling.diffusion_schedule import ChainSchedule
from mar_accel.sampling.guidance import Guidance


@dataclass(frozen=True)
class ARStep:
    """One AR step. It decodes the positions ``order[:, start:stop]`` of each image.

    Attributes:
        index: step index k, from 0.
        start, stop: slice of the decode order. Tokens before ``start`` are known.
        stage: index of the stage, from 0; always 0 for an order with one stage.
        guidance: the branches that the step runs, and their combination.
        num_diffusion_steps: T of the tokens that are not selected.
        num_detail_tokens: number of tokens per image that the selection chooses (FTS). 0: none.
        num_detail_diffusion_steps: T of the selected tokens.
    """

    index: int
    start: int
    stop: int
    stage: int
    guidance: Guidance
    num_diffusion_steps: int
    num_detail_tokens: int = 0
    num_detail_diffusion_steps: int = 0

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    @property
    def guidance_scale(self) -> float:
        """Guidance scale w of this step. 1: no guidance."""
        return self.guidance.scale

    @property
    def guided(self) -> bool:
        """Whether the step also runs the unconditional branch."""
        return self.guidance.guided

    @property
    def num_branches(self) -> int:
        """Number of branches, and of rows per image: 2 if guided, else 1."""
        return 2 if self.guided else 1


@dataclass(frozen=True)
class Plan:
    """All AR steps of a decode. Every image has the same plan.

    Attributes:
        grid: rows and columns (h, w) of the token grid.
        steps: the AR steps. Together they decode each token once that is not known at the start.
        temperature: factor on the noise of ancestral steps.
        max_timestep: clip of the diffusion timesteps, 0..999. None: no clip.
        schedules: the schedule of each chain, by its number of diffusion steps T.

    Example:
        plan = Sampler(step_sizes=CosineSteps(32)).plan((16, 16))
    """

    grid: tuple[int, int]
    steps: tuple[ARStep, ...]
    temperature: float = 1.0
    max_timestep: int | None = None
    schedules: Mapping[int, ChainSchedule] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether any step runs the unconditional branch."""
        return any(step.guided for step in self.steps)

    @property
    def num_known(self) -> int:
        """Number of tokens that are known at the start (inpainting). They come first in the decode order."""
        return self.steps[0].start

    @property
    def num_tokens(self) -> int:
        """Number of tokens L."""
        return self.grid[0] * self.grid[1]

    @property
    def max_diffusion_steps(self) -> int:
        """Diffusion steps T of the longest chain."""
        return max(max(step.num_diffusion_steps, step.num_detail_diffusion_steps) for step in self.steps)

    @property
    def num_draws(self) -> int:
        """Number of noise vectors that a token may need."""
        return max(schedule.num_draws for schedule in self.schedules.values())
