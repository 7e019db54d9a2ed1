"""The forward pass of the published code, with all its unused work: a baseline for published speedups."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mar_accel.models.transformer import Block, gather_tokens
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.state import DecodeState


class AsPublished(CachePolicy):
    """Computes each guidance branch at all positions, also where nothing depends on it or uses it.

    The images are those of ``cache=none``, up to rounding. ``cache=none`` leaves out what no image needs:

    - the last decoder block and LightGen's cross stage at positions that are not predicted;
    - LightGen's encoder and decoder of the unconditional branch;
    - LightGen's keys and values of the text at all AR steps but the first.

    Example:
        >>> count_flops(config, sampler, AsPublished()).total / count_flops(config, sampler, NoCache()).total
    """

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        model, (tokens, known) = state.model, state.known(step)
        everywhere = torch.arange(state.plan.num_tokens, dtype=torch.int64, device=known.device)
        everywhere = everywhere.expand(state.batch_size, -1)
        branches = [model.unreduced(state.condition, number) for number in range(step.num_branches)]
        encoded = torch.cat([model.encode_tokens(branch, tokens, known) for branch in branches])
        found = []
        for branch, x in zip(branches, state.encoded(step, encoded).chunk(len(branches)), strict=True):
            x = model.decoder_inputs(x, known)
            for block in model.decoder_blocks:
                x = cast("Block", block)(x)
            found.append(model.vectors(branch, x[:, model.config.buffer_size :], everywhere))
        return gather_tokens(torch.cat(found), state.predicted(step).repeat(len(branches), 1))
