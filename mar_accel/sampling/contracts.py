"""Checks of the values that sampler parts and cache policies return.

A custom part that returns something else is rejected; the error names its class. No check reads a value from
a device. Tensors of the decode loop are checked by shape only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.diffusion_steps import DiffusionSteps
from mar_accel.sampling.guidance import Guidance, GuidanceSchedule
from mar_accel.sampling.orders import Order
from mar_accel.sampling.parts import counts_of, got, wrong_return
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.selection import TokenSelection
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.step_sizes import StepSize, StepSizes

if TYPE_CHECKING:
    from mar_accel.sampling.policy import CachePolicy
    from mar_accel.sampling.state import DecodeState

ORDER = "sampler.order"


def check_stage_sizes(order: Order, sizes: object, length: int) -> list[int]:
    """The sizes as a list of int; rejects empty stages, and stages that do not add up to L."""
    checked = counts_of(ORDER, order, "stage_sizes", sizes, "stage")
    if sum(checked) != length:
        raise ConfigError(
            f"{ORDER} ({_name(order)}): stage_sizes must add up to the {length} tokens of the grid, "
            f"got {sum(checked)}."
        )
    return checked


def check_step_sizes(step_sizes: StepSizes, steps: object, length: int) -> None:
    """Reject AR steps without tokens, and step sizes that do not add up to L."""
    key = "sampler.step_sizes"
    if not isinstance(steps, Sequence) or not all(isinstance(step, StepSize) for step in steps):
        raise wrong_return(key, step_sizes, "split", "a list of StepSize", steps)
    total = sum(counts_of(key, step_sizes, "split", [step.num_tokens for step in steps], "AR step"))
    if total != length:
        raise ConfigError(
            f"{key} ({_name(step_sizes)}): step sizes must add up to the {length} tokens of the grid, "
            f"got {total}."
        )


def check_diffusion_steps(diffusion_steps: DiffusionSteps, lengths: object, num_steps: int) -> list[int]:
    """One T per AR step as a list of int; rejects anything else. The diffusion schedule checks the range."""
    key = "sampler.diffusion_steps"
    checked = counts_of(key, diffusion_steps, "per_step", lengths, "AR step")
    if len(checked) != num_steps:
        raise ConfigError(
            f"{key} ({_name(diffusion_steps)}): per_step must return one value for each of the {num_steps} "
            f"AR steps, got {len(checked)}."
        )
    return checked


def check_guidance(schedule: GuidanceSchedule, guidance: object, index: int) -> None:
    """Reject anything but a Guidance with a finite scale ≥ 0 and a range of timesteps."""
    key, where = "sampler.guidance_schedule", f" at AR step {index}"
    if not isinstance(guidance, Guidance):
        raise wrong_return(key, schedule, "at", "a Guidance", guidance, where)
    scale, timesteps = guidance.scale, guidance.timesteps
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise ConfigError(
            f"{key} ({_name(schedule)}): scale must be a finite number ≥ 0 (1 disables guidance), "
            f"got {got(scale)}{where}."
        )
    if not (isinstance(timesteps, tuple) and [isinstance(t, Integral) for t in timesteps] == [True, True]):
        must = "a Guidance with two integers as timesteps"
        raise wrong_return(key, schedule, "at", must, timesteps, where)


def check_num_selected(selection: TokenSelection, count: object, num_tokens: int) -> int:
    """The count as int; rejects a selection of more tokens than the AR step decodes."""
    if not isinstance(count, Integral) or not 0 <= int(count) <= num_tokens:
        must = f"an integer between 0 and {num_tokens}"
        raise wrong_return("sampler.selection", selection, "num_selected", must, count)
    return int(count)


def check_order(order: Order, permutation: object, length: int) -> None:
    """Reject a decode order that does not contain each of the L positions exactly once."""
    if (
        not isinstance(permutation, Tensor)
        or permutation.dtype != torch.int64
        or permutation.shape != (length,)
    ):
        must = f"an int64 tensor of shape [{length}]"
        raise wrong_return(ORDER, order, "permutation", must, permutation)
    every = torch.arange(length, dtype=torch.int64, device="cpu")
    if not torch.equal(permutation.sort().values.cpu(), every):
        raise ConfigError(
            f"{ORDER} ({_name(order)}): permutation must contain each position from 0 to {length - 1} "
            "exactly once."
        )


def check_conditioning_vectors(policy: CachePolicy, z: object, state: DecodeState, step: ARStep) -> None:
    """Reject z that is not [branches · B, n, D]."""
    rows, width = state.batch_size * step.num_branches, state.model.config.embed_dim
    shape, where = (rows, step.num_tokens, width), f" at AR step {step.index}"
    _check_shape("cache", policy, "conditioning_vectors", z, shape, where)


def check_denoiser(policy: CachePolicy, denoise: object, step: ARStep) -> None:
    """Reject a denoiser that cannot be called."""
    if not callable(denoise):
        must, where = "a callable (x, index) -> (epsilon, v)", f" at AR step {step.index}"
        raise wrong_return("cache", policy, "denoiser", must, denoise, where)


def check_scores(selection: TokenSelection, scores: object, positions: Tensor) -> None:
    """Reject scores that are not [B, n]."""
    _check_shape("sampler.selection", selection, "scores", scores, tuple(positions.shape))


def check_chain(solver: Solver, tokens: object, noise: Tensor) -> None:
    """Reject tokens that are not [n, C]; ``noise`` is [T+1, n, C]."""
    _check_shape("sampler.solver", solver, "sample", tokens, tuple(noise.shape[1:]))


def _check_shape(
    key: str, part: object, method: str, value: object, shape: tuple[int, ...], where: str = ""
) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        raise wrong_return(key, part, method, f"a tensor of shape {list(shape)}", value, where)


def _name(part: object) -> str:
    return type(part).__name__
