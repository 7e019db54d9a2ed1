"""What a sampler's parts and a cache policy must return, checked where it is used.

A part of one's own that returns something else is refused with its class's name. Nothing here reads a value
from a device: tensors of the decode loop are checked by their shapes alone.
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
    from mar_accel.sampling.policy import CachePolicy, DecodeState


def check_stage_sizes(order: Order, sizes: Sequence[int], length: int) -> None:
    """Refuse stages that are empty, or that are not the grid's L tokens together."""
    where = f"sampler.order ({_name(order)})"
    if not sizes or not all(_is_count(size) for size in sizes):
        raise ConfigError(
            f"{where} has the stage sizes {list(sizes)}; stage_sizes must return integers >= 1."
        )
    if sum(sizes) != length:
        raise ConfigError(
            f"{where} has stages of {sum(sizes)} tokens in all, but the grid has {length}; its stage_sizes "
            f"must add up to {length}."
        )


def check_step_sizes(step_sizes: StepSizes, steps: Sequence[StepSize], length: int) -> None:
    """Refuse AR steps that decode no token, or that do not decode the L tokens once."""
    where = f"sampler.step_sizes ({_name(step_sizes)})"
    for index, step in enumerate(steps):
        if not _is_count(step.num_tokens):
            raise ConfigError(
                f"{where} decodes {step.num_tokens} tokens at AR step {index}; every step size must be an "
                "integer >= 1."
            )
    total = sum(step.num_tokens for step in steps)
    if total != length:
        raise ConfigError(
            f"{where} decodes {total} of {length} tokens; its step sizes must add up to {length}."
        )


def check_diffusion_steps(diffusion_steps: DiffusionSteps, lengths: Sequence[int], num_steps: int) -> None:
    """Refuse anything but one integer T for each AR step; its range is that of the head."""
    where = f"sampler.diffusion_steps ({_name(diffusion_steps)})"
    if len(lengths) != num_steps:
        raise ConfigError(
            f"{where} has {len(lengths)} values for {num_steps} AR steps; per_step must return one for each."
        )
    for index, length in enumerate(lengths):
        if not isinstance(length, Integral):
            raise ConfigError(f"{where} must return integers, got {length!r} at AR step {index}.")


def check_guidance(schedule: GuidanceSchedule, guidance: Guidance, index: int) -> None:
    """Refuse a scale that is no finite number >= 0."""
    scale = guidance.scale
    if not isinstance(scale, Real) or not math.isfinite(scale) or scale < 0:
        raise ConfigError(
            f"sampler.guidance_schedule ({_name(schedule)}) has the scale {scale} at AR step {index}; it "
            "must be a finite number >= 0 (1 disables guidance)."
        )


def check_num_selected(selection: TokenSelection, count: int, num_tokens: int) -> None:
    """Refuse to choose more tokens than an AR step has."""
    if not 0 <= count <= num_tokens:
        raise ConfigError(
            f"sampler.selection ({_name(selection)}) chooses {count} of {num_tokens} tokens; num_selected "
            f"must return 0 to {num_tokens}."
        )


def check_order(order: Order, permutation: Tensor, length: int) -> None:
    """Refuse a decode order that does not hold each of the L positions once."""
    where = f"sampler.order ({_name(order)})"
    if permutation.dtype != torch.int64 or permutation.shape != (length,):
        raise ConfigError(
            f"{where} must return an int64 tensor of shape [{length}], got {permutation.dtype} of shape "
            f"{list(permutation.shape)}."
        )
    if not torch.equal(permutation.sort().values.cpu(), torch.arange(length)):
        raise ConfigError(
            f"{where} returns no permutation; it must hold each position from 0 to {length - 1} once."
        )


def check_conditioning_vectors(policy: CachePolicy, z: Tensor, state: DecodeState, step: ARStep) -> None:
    """Refuse z that is not [branches · B, n, D]."""
    rows, width = state.batch_size * step.num_branches, state.model.config.embed_dim
    _check_shape(f"cache ({_name(policy)}): conditioning_vectors", z, (rows, step.num_tokens, width), step)


def check_scores(selection: TokenSelection, scores: Tensor, positions: Tensor) -> None:
    """Refuse scores that are not [B, n]."""
    _check_shape(f"sampler.selection ({_name(selection)}): scores", scores, tuple(positions.shape))


def check_chain(solver: Solver, tokens: Tensor, noise: Tensor) -> None:
    """Refuse tokens that are not [n, C]; ``noise`` is [T+1, n, C]."""
    _check_shape(f"sampler.solver ({_name(solver)}): sample", tokens, tuple(noise.shape[1:]))


def _check_shape(what: str, tensor: Tensor, expected: tuple[int, ...], step: ARStep | None = None) -> None:
    if tensor.shape != expected:
        where = "" if step is None else f" at AR step {step.index}"
        raise ConfigError(f"{what} must return shape {list(expected)}{where}, got {list(tensor.shape)}.")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _name(part: object) -> str:
    return type(part).__name__
