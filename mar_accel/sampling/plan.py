"""A plan: how many tokens are decoded at which AR step, with what guidance and how many diffusion steps."""

from __future__ import annotations

from dataclasses import dataclass

from mar_accel.sampling.guidance import Guidance


@dataclass(frozen=True)
class ARStep:
    """One AR step. Its positions are ``order[:, start:stop]`` of each image's decode order.

    Attributes:
        index: k, counted from 0.
        start, stop: slice of the decode order; tokens before ``start`` are known.
        stage: index of the stage the step belongs to; 0 where the order has a single stage.
        guidance: which branches the step runs, and how they are combined.
        num_diffusion_steps: T of the tokens that no selection chose.
        num_detail_tokens: how many tokens per image the selection chooses (FTS); 0: none.
        num_detail_diffusion_steps: T of the chosen tokens.
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
        """w of this step; 1: no guidance."""
        return self.guidance.scale

    @property
    def guided(self) -> bool:
        """Whether the step runs the unconditional branch too."""
        return self.guidance.guided

    @property
    def num_branches(self) -> int:
        """Rows of the step for each image: 2 if guided, else 1."""
        return 2 if self.guided else 1


@dataclass(frozen=True)
class Plan:
    """All AR steps of a decode, the same for every image.

    Attributes:
        grid: rows and columns (h, w) of the token grid.
        steps: the AR steps; together they decode every token once.
        temperature: factor on the noise of the ancestral steps.
        max_timestep: clip of the diffusion timesteps, or None.
    """

    grid: tuple[int, int]
    steps: tuple[ARStep, ...]
    temperature: float = 1.0
    max_timestep: int | None = None

    @property
    def guided(self) -> bool:
        """Whether any step runs the unconditional branch."""
        return any(step.guided for step in self.steps)

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def max_diffusion_steps(self) -> int:
        """The longest chain of any token: how many noise vectors a token may need, less one."""
        return max(max(step.num_diffusion_steps, step.num_detail_diffusion_steps) for step in self.steps)
