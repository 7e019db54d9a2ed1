"""The sampler: it combines its parts into a plan, and draws orders and noise of a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from numbers import Integral, Real
from typing import Annotated, ClassVar, Final, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.contracts import (
    check_diffusion_steps,
    check_guidance,
    check_num_selected,
    check_order,
    check_stage_sizes,
    check_step_sizes,
)
from mar_accel.sampling.diffusion_schedule import ChainSchedule, check_max_timestep
from mar_accel.sampling.diffusion_steps import ChainLength, ConstantDiffusionSteps, DiffusionSteps
from mar_accel.sampling.guidance import Guidance, GuidanceSchedule, ModelGuidance, Progress
from mar_accel.sampling.model_defaults import MODEL, FromModel, ModelDefaults
from mar_accel.sampling.noise import SampleNoise, Stream, draw_noise, sample_generator
from mar_accel.sampling.orders import Order, RandomOrder
from mar_accel.sampling.parts import check_part, not_defined
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.selection import NoSelection, TokenSelection
from mar_accel.sampling.solvers import DDPM, OwnTimesteps, Solver, chain_schedule
from mar_accel.sampling.step_sizes import CosineSteps, StepSize, StepSizes, last_stage

# The config check reads this range.
Timestep = Annotated[int, Ge(0), Le(999)]
AUTO: Final = "auto"
# With fewer diffusion steps, the first step at t = 999 amplifies the head's error too much
# (x₀ divides by √ᾱ ≈ 4e-5). "auto" then clips the timesteps at DiSA's value.
AUTO_CLIP_BELOW = 100
AUTO_MAX_TIMESTEP = 950

# Parts of MAR's sampler, as in conf/sampler/mar.yaml. They have no state, so samplers can share them.
_ORDER, _STEP_SIZES, _GUIDANCE = RandomOrder(), CosineSteps(), ModelGuidance()
_DIFFUSION_STEPS, _SOLVER, _SELECTION = ConstantDiffusionSteps(), DDPM(), NoSelection()


class Sampler(ModelDefaults):
    """Decides which tokens each AR step decodes, with which guidance and how many diffusion steps.

    The defaults are the published MAR sampler (arXiv:2406.11838).

    Args:
        order: decode order and its stages.
        step_sizes: tokens per AR step.
        guidance_schedule: guidance per AR step.
        diffusion_steps: diffusion steps per AR step.
        solver: head solver.
        selection: chooses tokens of the last stage that get more diffusion steps.
        guidance_scale: w, at least 0. 1 disables guidance, and the unconditional branch with it.
            "model": value of the model, or 1 if it has none.
        temperature: factor on the sampling noise, at least 0.
        max_timestep: clip of the diffusion timesteps, 0..999. None: no clip.
            "auto": 950 if any AR step has fewer than 100 diffusion steps, else no clip.
            A solver with timesteps of its own takes no clip.
            "model": value of the model, or "auto" if it has none.
        num_iter, num_diffusion_steps: keys of the config, to which its parts refer as K and T. They are
            declared here so that the config check knows their types; the sampler does not read them.

    Raises:
        ConfigError: a value is out of range.

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
        max_timestep: Timestep | Literal["auto"] | FromModel | None = MODEL,
        num_iter: int | None = None,
        num_diffusion_steps: ChainLength | None = None,
    ):
        for key, part, kind in (
            ("order", order, Order),
            ("step_sizes", step_sizes, StepSizes),
            ("guidance_schedule", guidance_schedule, GuidanceSchedule),
            ("diffusion_steps", diffusion_steps, DiffusionSteps),
            ("solver", solver, Solver),
            ("selection", selection, TokenSelection),
        ):
            check_part(f"sampler.{key}", part, kind)
        self.order = order
        self.step_sizes = step_sizes
        self.guidance_schedule = guidance_schedule
        self.diffusion_steps = diffusion_steps
        self.solver = solver
        self.selection = selection
        self.guidance_scale = guidance_scale
        # A whole number may be larger than torch's integers.
        self.temperature = float(temperature) if isinstance(temperature, Real) else temperature
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
                raise ConfigError(f"sampler.{key} must be a finite number ≥ 0{advice}, got {value}.")
        if isinstance(self.max_timestep, Integral):
            check_max_timestep(int(self.max_timestep))
        if isinstance(self.max_timestep, str) and self.max_timestep not in (AUTO, MODEL):
            raise ConfigError(
                f"sampler.max_timestep must be an integer, auto, model or null, got {self.max_timestep}."
            )

    def with_guidance_scale(self, guidance_scale: float) -> Sampler:
        """Copy of this sampler with another guidance scale w."""
        copied = copy.copy(self)
        copied.guidance_scale = guidance_scale
        copied.check_settings()
        return copied

    def plan(self, grid: tuple[int, int], seed: int = 0, unknown: Sequence[int] | None = None) -> Plan:
        """Plan the AR steps on a token grid (h, w).

        Args:
            grid: rows and columns of the token grid.
            seed: seed of the run, at least 0. Only random step sizes depend on it.
            unknown: number of unknown tokens of each stage, of :meth:`unknown_per_stage`. All other tokens
                are known at the start. None: no token is.

        Raises:
            ConfigError: the parts do not fit the grid or each other.
        """
        sizes = self._step_sizes(grid, seed, unknown)
        num_known = grid[0] * grid[1] - sum(size.num_tokens for size in sizes)
        # A wrong order is refused here, before anything is sampled.
        self._order(grid, seed=0, index=0)
        lengths = self.diffusion_steps.per_step(sizes)
        lengths = check_diffusion_steps(self.diffusion_steps, lengths, len(sizes))
        max_timestep = self._resolve_max_timestep(lengths)
        starts = accumulate((size.num_tokens for size in sizes), initial=num_known)
        schedules: dict[int, ChainSchedule] = {}
        steps: list[ARStep] = []
        for index, (size, length, start) in enumerate(zip(sizes, lengths, starts, strict=False)):
            num_detail = self._num_selected(size.num_tokens, length) if size.stage == last_stage(sizes) else 0
            detail_length = self.selection.num_diffusion_steps if num_detail else 0
            timesteps: tuple[float, ...] = ()
            for each in (length, detail_length) if num_detail else (length,):
                if each not in schedules:
                    schedules[each] = chain_schedule(self.solver, each, max_timestep)
                timesteps += schedules[each].timesteps
            decoded = (num_known + size.progress * (grid[0] * grid[1] - num_known)) / (grid[0] * grid[1])
            progress = Progress(index, size.num_iter or len(sizes), decoded if num_known else size.progress)
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
        return Plan(grid, tuple(steps), self.temperature, max_timestep, schedules)

    def _step_sizes(self, grid: tuple[int, int], seed: int, unknown: Sequence[int] | None) -> list[StepSize]:
        stage_sizes: Sequence[int] = self._stage_sizes(grid)
        step_sizes = self.step_sizes.for_seed(seed)
        if unknown is not None:
            stage_sizes, step_sizes = unknown, step_sizes.for_few(sum(unknown))
        sizes = step_sizes.split(stage_sizes)
        check_step_sizes(self.step_sizes, sizes, sum(stage_sizes))
        return sizes

    def _stage_sizes(self, grid: tuple[int, int]) -> list[int]:
        return check_stage_sizes(self.order, self.order.stage_sizes(grid), grid[0] * grid[1])

    def unknown_per_stage(
        self, grid: tuple[int, int], seed: int, index: int, unknown: Tensor
    ) -> tuple[int, ...]:
        """Number of unknown tokens in each stage of one sample's decode order.

        Args:
            grid: rows and columns of the token grid.
            seed, index: seed of the run and sample index.
            unknown: whether each token is unknown, bool [L].
        """
        stages = unknown[self._order(grid, seed, index)].split(self._stage_sizes(grid))
        return tuple(int(stage.sum()) for stage in stages)

    def _guidance(self, progress: Progress, timesteps: Sequence[float]) -> Guidance:
        """Guidance of a step; none if it covers none of the ``timesteps`` that the chains visit."""
        guidance = self.guidance_schedule.at(self.setting("guidance_scale"), progress)
        check_guidance(self.guidance_schedule, guidance, progress.index)
        return guidance if any(guidance.covers(timestep) for timestep in timesteps) else Guidance()

    def _num_selected(self, num_tokens: int, num_diffusion_steps: int) -> int:
        """Number of selected tokens of an AR step in the last stage.

        Args:
            num_tokens: tokens of the step.
            num_diffusion_steps: T of the tokens that are not selected.
        """
        self._check_detail(num_diffusion_steps)
        count = check_num_selected(self.selection, self.selection.num_selected(num_tokens), num_tokens)
        if count and type(self.selection).scores is TokenSelection.scores:
            raise not_defined("sampler.selection", self.selection, "scores")
        return count

    def _check_detail(self, num_diffusion_steps: int) -> None:
        """Reject selected tokens with fewer diffusion steps than the other tokens of the AR step."""
        detail = self.selection.num_diffusion_steps
        if self.selection.fraction > 0 and detail < num_diffusion_steps:
            raise ConfigError(
                f"sampler.selection.num_diffusion_steps must be ≥ {num_diffusion_steps}, the diffusion "
                f"steps of the last stage, got {detail}."
            )

    def _resolve_max_timestep(self, lengths: Sequence[int]) -> int | None:
        clip: int | str | None = self.setting("max_timestep")
        if not isinstance(clip, str):
            check_max_timestep(clip)
        if isinstance(self.solver, OwnTimesteps):
            return None
        if not isinstance(clip, str):
            return clip
        return AUTO_MAX_TIMESTEP if min(lengths) < AUTO_CLIP_BELOW else None

    def draw(
        self, plan: Plan, seed: int, indices: Sequence[int], token_dim: int, unknown: Tensor | None = None
    ) -> SampleNoise:
        """Draw orders and noise of the samples ``indices``, on the CPU.

        Args:
            plan: the AR steps.
            seed: seed of the run, at least 0.
            indices: sample indices, one per image of the batch.
            token_dim: channels C of a token.
            unknown: whether each token is unknown, bool [B, L]. Known tokens come first in the orders, row by
                row. None: all are unknown.
        """
        orders = [self._order(plan.grid, seed, index) for index in indices]
        if unknown is not None:
            orders = [_known_first(order, row) for order, row in zip(orders, unknown.cpu(), strict=True)]
        noise, scores = draw_noise(seed, indices, plan.num_tokens, token_dim, plan.num_draws)
        return SampleNoise(torch.stack(orders), noise, scores)

    def _order(self, grid: tuple[int, int], seed: int, index: int) -> Tensor:
        """Decode order [L] of one sample."""
        order = self.order.permutation(grid, sample_generator(seed, index, Stream.ORDER))
        check_order(self.order, order, grid[0] * grid[1])
        return order


def _known_first(order: Tensor, unknown: Tensor) -> Tensor:
    """The known positions in ascending order, then the unknown ones as in a decode order [L]."""
    return torch.cat([(~unknown).nonzero().flatten(), order[unknown[order]]])
