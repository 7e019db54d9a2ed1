"""Seeded random weights, for timing and testing without a checkpoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SEED = 0
EMBEDDING_STD = 0.02
# Weights are cut from one block of random numbers: drawing 943 million of them would take longer than a
# benchmark. An odd length keeps the rows of a matrix from repeating each other.
BLOCK_LENGTH = (1 << 22) - 3


@torch.no_grad()
def fill_randomly(module: nn.Module) -> None:
    """Give every parameter a value, in place; the same values for the same architecture.

    Matrices and convolutions are normal with deviation 1/√fan-in, embeddings with 0.02, norms are the
    identity and biases zero. Nothing is left at zero that decides whether a layer does anything (as
    the published initialisation of the diffusion head does): outputs depend on all weights.
    """
    block = torch.randn(BLOCK_LENGTH, generator=torch.Generator().manual_seed(SEED))
    offset = 0
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if isinstance(owner, (nn.LayerNorm, nn.GroupNorm)) or (parameter.ndim == 1 and name == "bias"):
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)
                continue
            is_matrix = isinstance(owner, (nn.Linear, nn.Conv2d))
            std = 1 / math.sqrt(parameter[0].numel()) if is_matrix else EMBEDDING_STD
            offset = _fill(parameter.view(-1), block, std, offset)


def _fill(flat: Tensor, block: Tensor, std: float, offset: int) -> int:
    """Write std · block, repeated, into ``flat`` from ``offset`` on; returns the offset to go on from."""
    start = 0
    while start < len(flat):
        count = min(len(flat) - start, len(block) - offset)
        torch.mul(block[offset : offset + count], std, out=flat[start : start + count])
        start, offset = start + count, (offset + count) % len(block)
    return offset
