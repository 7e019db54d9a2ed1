"""A sampler: named parts that together make a plan and the orders of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mar_accel.errors import ConfigError
from mar_accel.sampling.diffusion_schedule import respaced_timesteps
from mar_accel.sampling.diffusion_steps import DiffusionSteps
from mar_accel.sampling.guidance import GuidanceSchedule
from mar_accel.sampling.noise import SampleNoise, Stream, draw_noise, sample_generator
from mar_accel.sampling.orders import Order
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.selection import TokenSelection
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.step_sizes import StepSizes

# Below this many diffusion steps the first step would amplify the head's error too much at t = 999
# (x₀ divides by √ᾱ ≈ 4e-5), so "auto" clips the timesteps, at DiSA's value.
AUTO_CLIP_BELOW = 100
AUTO_MAX_TIMESTEP = 950


class Sampler:
    """Which tokens are decoded when, with how much guidance and how many diffusion steps.

    Args:
        order: decode order, with its stages.
        step_sizes: tokens per AR step.
        guidance_schedule: guidance scale per AR step.
        diffusion_steps: diffusion steps per AR step.
        solver: head solver.
        selection: chooses tokens of the last stage for more diffusion steps.
        guidance_scale: w, at least 0; 1 turns guidance (and the unconditional branch) off.
        temperature: factor on the sampling noise, at least 0.
        max_timestep: clip of the diffusion timesteps, None for no clip, or "auto": 950 where any
            token has fewer than 100 diffusion steps, else none.
        num_iter, num_diffusion_steps: K and T as the config states them for its parts; unused here.
    """

    def __init__(
        self,
        order: Order,
        step_sizes: StepSizes,
        guidance_schedule: GuidanceSchedule,
        diffusion_steps: DiffusionSteps,
        solver: Solver,
        selection: TokenSelection,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        max_timestep: int | str | None = "auto",
        num_iter: int | None = None,
        num_diffusion_steps: int | None = None,
    ):
        if guidance_scale < 0:
            raise ConfigError(
                f"sampler.guidance_scale={guidance_scale} is negative; give 1 for no guidance, or more."
            )
        if temperature < 0:
            raise ConfigError(f"sampler.temperature={temperature} is negative; give 0 or more.")
        if isinstance(max_timestep, str) and max_timestep != "auto":
            raise ConfigError(
                f"sampler.max_timestep={max_timestep} is unknown; give a timestep, auto or null."
            )
        self.order = order
        self.step_sizes = step_sizes
        self.guidance_schedule = guidance_schedule
        self.diffusion_steps = diffusion_steps
        self.solver = solver
        self.selection = selection
        self.guidance_scale = guidance_scale
        self.temperature = temperature
        self.max_timestep = max_timestep

    def plan(self, grid: tuple[int, int]) -> Plan:
        """The AR steps on a token grid; raises ConfigError where the parts do not fit it."""
        stage_sizes = self.order.stage_sizes(grid)
        sizes = self.step_sizes.split(stage_sizes)
        lengths = self.diffusion_steps.per_step(sizes)
        last_stage, start, steps = sizes[-1].stage, 0, []
        for index, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
            stop = start + size.num_tokens
            num_detail = 0
            if size.stage == last_stage:
                self._check_detail(length)
                num_detail = self.selection.num_selected(size.num_tokens)
            step = ARStep(
                index=index,
                start=start,
                stop=stop,
                stage=size.stage,
                guidance_scale=self.guidance_schedule.scale(self.guidance_scale, size.progress),
                num_diffusion_steps=length,
                num_detail_tokens=num_detail,
                num_detail_diffusion_steps=self.selection.num_diffusion_steps if num_detail else 0,
            )
            steps.append(step)
            start = stop
        plan = Plan(
            grid=grid,
            steps=tuple(steps),
            guided=self.guidance_scale != 1,
            temperature=self.temperature,
            max_timestep=self._resolve_max_timestep(steps),
        )
        for length in {*lengths, plan.max_diffusion_steps}:
            respaced_timesteps(length, plan.max_timestep)  # refuses what the head was not trained on
        return plan

    def _check_detail(self, num_diffusion_steps: int) -> None:
        """Refuse chosen tokens with fewer diffusion steps than the others of their AR step."""
        detail = self.selection.num_diffusion_steps
        if self.selection.fraction > 0 and detail < num_diffusion_steps:
            raise ConfigError(
                f"sampler.selection.num_diffusion_steps={detail} of the chosen tokens is below the "
                f"{num_diffusion_steps} diffusion steps of the others; raise it, or lower those of the last "
                "stage."
            )

    def _resolve_max_timestep(self, steps: Sequence[ARStep]) -> int | None:
        if self.max_timestep != "auto":
            assert not isinstance(self.max_timestep, str)
            return self.max_timestep
        shortest = min(step.num_diffusion_steps for step in steps)
        return AUTO_MAX_TIMESTEP if shortest < AUTO_CLIP_BELOW else None

    def draw(self, plan: Plan, seed: int, indices: Sequence[int], token_dim: int) -> SampleNoise:
        """Orders and noise of the samples ``indices`` under ``seed``, on the CPU."""
        orders = [
            self.order.permutation(plan.grid, sample_generator(seed, index, Stream.ORDER))
            for index in indices
        ]
        noise, scores = draw_noise(seed, indices, plan.num_tokens, token_dim, plan.max_diffusion_steps)
        return SampleNoise(torch.stack(orders), noise, scores)
