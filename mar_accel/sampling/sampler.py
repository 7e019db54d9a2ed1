"""A sampler: named parts that together make a plan and the orders of a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from numbers import Real
from typing import ClassVar, Final, Literal

import torch

from mar_accel.errors import ConfigError
from mar_accel.sampling.contracts import (
    check_diffusion_steps,
    check_guidance,
    check_num_selected,
    check_order,
    check_stage_sizes,
    check_step_sizes,
)
from mar_accel.sampling.diffusion_schedule import respaced_timesteps
from mar_accel.sampling.diffusion_steps import ConstantDiffusionSteps, DiffusionSteps
from mar_accel.sampling.guidance import Guidance, GuidanceSchedule, LinearGuidance, Progress
from mar_accel.sampling.model_defaults import MODEL, FromModel, ModelDefaults
from mar_accel.sampling.noise import SampleNoise, Stream, draw_noise, sample_generator
from mar_accel.sampling.orders import Order, RandomOrder
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.selection import NoSelection, TokenSelection
from mar_accel.sampling.solvers import DDPM, Solver
from mar_accel.sampling.step_sizes import CosineSteps, StepSize, StepSizes

AUTO: Final = "auto"
# Below this many diffusion steps the first step would amplify the head's error too much at t = 999
# (x₀ divides by √ᾱ ≈ 4e-5), so "auto" clips the timesteps, at DiSA's value.
AUTO_CLIP_BELOW = 100
AUTO_MAX_TIMESTEP = 950

# MAR's parts, as in conf/sampler/mar.yaml. They keep no state, so samplers can share them.
_ORDER, _STEP_SIZES, _GUIDANCE = RandomOrder(), CosineSteps(), LinearGuidance()
_DIFFUSION_STEPS, _SOLVER, _SELECTION = ConstantDiffusionSteps(), DDPM(), NoSelection()


class Sampler(ModelDefaults):
    """Which tokens are decoded when, with how much guidance and how many diffusion steps.

    By default it is the published MAR sampler (arXiv:2406.11838).

    Args:
        order: decode order, with its stages.
        step_sizes: tokens per AR step.
        guidance_schedule: guidance per AR step.
        diffusion_steps: diffusion steps per AR step.
        solver: head solver.
        selection: chooses tokens of the last stage for more diffusion steps.
        guidance_scale: w, at least 0; 1 turns guidance (and the unconditional branch) off. "model": as the
            model says, else 1.
        temperature: factor on the sampling noise, at least 0.
        max_timestep: clip of the diffusion timesteps; None: no clip; "auto": 950 where any token has fewer
            than 100 diffusion steps, else none. "model": as the model says, else "auto".
        num_iter, num_diffusion_steps: K and T as the config states them for its parts; unused here.

    Raises:
        ConfigError: a value is out of its range.

    Example:
        Sampler(order=HaltonOrder(), step_sizes=CosineSteps(32), guidance_scale=3.0).plan((16, 16))
    """

    model_defaults: ClassVar = {
        "guidance_scale": ("guidance_scale", 1.0),
        "max_timestep": ("max_timestep", "auto"),
    }

    def __init__(
        self,
        order: Order = _ORDER,
        step_sizes: StepSizes = _STEP_SIZES,
        guidance_schedule: GuidanceSchedule = _GUIDANCE,
        diffusion_steps: DiffusionSteps = _DIFFUSION_STEPS,
        solver: Solver = _SOLVER,
        selection: TokenSelection = _SELECTION,
        guidance_scale: float | FromModel = MODEL,
        temperature: float = 1.0,
        max_timestep: int | Literal["auto"] | FromModel | None = MODEL,
        num_iter: int | None = None,
        num_diffusion_steps: int | None = None,
    ):
        self.order = order
        self.step_sizes = step_sizes
        self.guidance_schedule = guidance_schedule
        self.diffusion_steps = diffusion_steps
        self.solver = solver
        self.selection = selection
        self.guidance_scale = guidance_scale
        self.temperature = temperature
        self.max_timestep = max_timestep
        self.check_settings()

    def check_settings(self) -> None:
        for key, value, advice in (
            ("guidance_scale", self.guidance_scale, " (1 disables guidance)"),
            ("temperature", self.temperature, ""),
        ):
            if value == MODEL and key in self.model_defaults:
                continue
            if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
                raise ConfigError(f"sampler.{key} must be a finite number >= 0{advice}, got {value}.")
        if isinstance(self.max_timestep, str) and self.max_timestep not in (AUTO, MODEL):
            raise ConfigError(
                f"sampler.max_timestep={self.max_timestep} is unknown; give a timestep, auto, model or null."
            )

    def with_guidance_scale(self, guidance_scale: float) -> Sampler:
        """The same sampler under another w."""
        copied = copy.copy(self)
        copied.guidance_scale = guidance_scale
        copied.check_settings()
        return copied

    def plan(self, grid: tuple[int, int]) -> Plan:
        """The AR steps on a token grid; raises ConfigError where the parts do not fit it, or each other."""
        sizes = self._step_sizes(grid)
        lengths = self.diffusion_steps.per_step(sizes)
        check_diffusion_steps(self.diffusion_steps, lengths, len(sizes))
        max_timestep = self._resolve_max_timestep(lengths)
        starts = accumulate((size.num_tokens for size in sizes), initial=0)
        steps: list[ARStep] = []
        for index, (size, length, start) in enumerate(zip(sizes, lengths, starts, strict=False)):
            num_detail = self._num_selected(size.num_tokens, length) if size.stage == sizes[-1].stage else 0
            detail_length = self.selection.num_diffusion_steps if num_detail else 0
            timesteps = respaced_timesteps(length, max_timestep)
            if num_detail:
                timesteps += respaced_timesteps(detail_length, max_timestep)
            progress = Progress(index, len(sizes), size.progress)
            step = ARStep(
                index=index,
                start=start,
                stop=start + size.num_tokens,
                stage=size.stage,
                guidance=self._guidance(progress, timesteps),
                num_diffusion_steps=length,
                num_detail_tokens=num_detail,
                num_detail_diffusion_steps=detail_length,
            )
            steps.append(step)
        return Plan(grid, tuple(steps), self.temperature, max_timestep)

    def _step_sizes(self, grid: tuple[int, int]) -> list[StepSize]:
        length = grid[0] * grid[1]
        stage_sizes = self.order.stage_sizes(grid)
        check_stage_sizes(self.order, stage_sizes, length)
        sizes = self.step_sizes.split(stage_sizes)
        check_step_sizes(self.step_sizes, sizes, length)
        return sizes

    def _guidance(self, progress: Progress, timesteps: Sequence[int]) -> Guidance:
        """Guidance of a step whose chains visit ``timesteps``; none where it covers none of them."""
        guidance = self.guidance_schedule.at(self.setting("guidance_scale"), progress)
        check_guidance(self.guidance_schedule, guidance, progress.index)
        return guidance if any(guidance.covers(timestep) for timestep in timesteps) else Guidance()

    def _num_selected(self, num_tokens: int, num_diffusion_steps: int) -> int:
        """Chosen tokens of an AR step of the last stage, whose other tokens have ``num_diffusion_steps``."""
        self._check_detail(num_diffusion_steps)
        count = self.selection.num_selected(num_tokens)
        check_num_selected(self.selection, count, num_tokens)
        return count

    def _check_detail(self, num_diffusion_steps: int) -> None:
        """Refuse chosen tokens with fewer diffusion steps than the others of their AR step."""
        detail = self.selection.num_diffusion_steps
        if self.selection.fraction > 0 and detail < num_diffusion_steps:
            raise ConfigError(
                f"sampler.selection.num_diffusion_steps={detail} of the chosen tokens is below the "
                f"{num_diffusion_steps} diffusion steps of the others; raise it, or lower those of the last "
                "stage."
            )

    def _resolve_max_timestep(self, lengths: Sequence[int]) -> int | None:
        clip: int | str | None = self.setting("max_timestep")
        if not isinstance(clip, str):
            return clip
        return AUTO_MAX_TIMESTEP if min(lengths) < AUTO_CLIP_BELOW else None

    def draw(self, plan: Plan, seed: int, indices: Sequence[int], token_dim: int) -> SampleNoise:
        """Orders and noise of the samples ``indices`` under ``seed``, on the CPU."""
        orders = []
        for index in indices:
            orders.append(self.order.permutation(plan.grid, sample_generator(seed, index, Stream.ORDER)))
            check_order(self.order, orders[-1], plan.num_tokens)
        noise, scores = draw_noise(seed, indices, plan.num_tokens, token_dim, plan.max_diffusion_steps)
        return SampleNoise(torch.stack(orders), noise, scores)
