"""Seeded random weights, for timings and tests without a checkpoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SEED = 0
EMBEDDING_STD = 0.02
# Weights are copied from one block of random numbers, since drawing 943 million of them would take longer
# than a benchmark. The odd length prevents equal rows in a matrix.
BLOCK_LENGTH = (1 << 22) - 3


@torch.no_grad()
def fill_randomly(module: nn.Module) -> None:
    """Fill all parameters in place; the same architecture always gets the same values.

    Matrices and convolutions are normal with standard deviation 1/√fan-in, embeddings with 0.02.
    Norms are the identity and biases are zero.
    Outputs depend on all weights.
    (The published initialisation of the diffusion head sets its residual branches and output to zero.)
    """
    block = torch.randn(BLOCK_LENGTH, generator=torch.Generator().manual_seed(SEED), dtype=torch.float32)
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
    """Fill ``flat`` with std · block, read cyclically from ``offset``; returns the next offset."""
    start = 0
    while start < len(flat):
        count = min(len(flat) - start, len(block) - offset)
        torch.mul(block[offset : offset + count], std, out=flat[start : start + count])
        start, offset = start + count, (offset + count) % len(block)
    return offset
