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
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.selection import TokenSelection
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.step_sizes import StepSize, StepSizes

if TYPE_CHECKING:
    from mar_accel.sampling.policy import CachePolicy
    from mar_accel.sampling.state import DecodeState


def check_stage_sizes(order: Order, sizes: Sequence[int], length: int) -> None:
    """Reject empty stages, and stages that do not add up to the L tokens of the grid."""
    where = f"sampler.order ({_name(order)})"
    if not sizes or not all(_is_count(size) for size in sizes):
        raise ConfigError(f"{where}: stage_sizes must return integers ≥ 1, got {list(sizes)}.")
    if sum(sizes) != length:
        raise ConfigError(
            f"{where}: stage_sizes must add up to the {length} tokens of the grid, got {sum(sizes)}."
        )


def check_step_sizes(step_sizes: StepSizes, steps: Sequence[StepSize], length: int) -> None:
    """Reject AR steps without tokens, and step sizes that do not add up to L."""
    where = f"sampler.step_sizes ({_name(step_sizes)})"
    for index, step in enumerate(steps):
        if not _is_count(step.num_tokens):
            raise ConfigError(
                f"{where}: every step size must be an integer ≥ 1, got {step.num_tokens} at AR step {index}."
            )
    total = sum(step.num_tokens for step in steps)
    if total != length:
        raise ConfigError(f"{where}: step sizes must add up to the {length} tokens of the grid, got {total}.")


def check_diffusion_steps(diffusion_steps: DiffusionSteps, lengths: Sequence[int], num_steps: int) -> None:
    """Reject anything but one integer T per AR step; the diffusion schedule checks its range."""
    where = f"sampler.diffusion_steps ({_name(diffusion_steps)})"
    if len(lengths) != num_steps:
        raise ConfigError(
            f"{where}: per_step must return one value for each of the {num_steps} AR steps, "
            f"got {len(lengths)}."
        )
    for index, length in enumerate(lengths):
        if not isinstance(length, Integral):
            raise ConfigError(f"{where}: per_step must return integers, got {length!r} at AR step {index}.")


def check_guidance(schedule: GuidanceSchedule, guidance: Guidance, index: int) -> None:
    """Reject a scale that is not a finite number ≥ 0."""
    scale = guidance.scale
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise ConfigError(
            f"sampler.guidance_schedule ({_name(schedule)}): scale must be a finite number ≥ 0 "
            f"(1 disables guidance), got {scale} at AR step {index}."
        )


def check_num_selected(selection: TokenSelection, count: int, num_tokens: int) -> None:
    """Reject a selection of more tokens than the AR step decodes."""
    if not 0 <= count <= num_tokens:
        raise ConfigError(
            f"sampler.selection ({_name(selection)}): num_selected must be between 0 and {num_tokens}, "
            f"got {count}."
        )


def check_order(order: Order, permutation: Tensor, length: int) -> None:
    """Reject a decode order that does not contain each of the L positions exactly once."""
    where = f"sampler.order ({_name(order)})"
    if permutation.dtype != torch.int64 or permutation.shape != (length,):
        raise ConfigError(
            f"{where}: permutation must return an int64 tensor of shape [{length}], got "
            f"{permutation.dtype} of shape {list(permutation.shape)}."
        )
    every = torch.arange(length, dtype=torch.int64, device="cpu")
    if not torch.equal(permutation.sort().values.cpu(), every):
        raise ConfigError(
            f"{where}: permutation must contain each position from 0 to {length - 1} exactly once."
        )


def check_conditioning_vectors(policy: CachePolicy, z: Tensor, state: DecodeState, step: ARStep) -> None:
    """Reject z that is not [branches · B, n, D]."""
    rows, width = state.batch_size * step.num_branches, state.model.config.embed_dim
    _check_shape(f"cache ({_name(policy)}): conditioning_vectors", z, (rows, step.num_tokens, width), step)


def check_scores(selection: TokenSelection, scores: Tensor, positions: Tensor) -> None:
    """Reject scores that are not [B, n]."""
    _check_shape(f"sampler.selection ({_name(selection)}): scores", scores, tuple(positions.shape))


def check_chain(solver: Solver, tokens: Tensor, noise: Tensor) -> None:
    """Reject tokens that are not [n, C]; ``noise`` is [T+1, n, C]."""
    _check_shape(f"sampler.solver ({_name(solver)}): sample", tokens, tuple(noise.shape[1:]))


def _check_shape(what: str, tensor: Tensor, expected: tuple[int, ...], step: ARStep | None = None) -> None:
    if tensor.shape != expected:
        where = "" if step is None else f" at AR step {step.index}"
        raise ConfigError(f"{what} must return shape {list(expected)}{where}, got {list(tensor.shape)}.")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _name(part: object) -> str:
    return type(part).__name__
