"""Position embeddings to begin a training with."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.transformer import Attention, Block

# Longest wavelength in tokens, over the shortest of 2π. A grid of 16×16 tokens leaves no channel constant.
_BASE = 32.0
# On a grid of 16×16, a masked token then gives most of its attention to tokens at most two steps away.
_SHARPNESS = 1.4


def sine_cosine_positions(height: int, width: int, dim: int, scale: float) -> Tensor:
    """Sines and cosines of row and column.

    Args:
        height, width: size of the token grid.
        dim: width D of the model, a multiple of 4.
        scale: standard deviation of the values, above 0.

    Returns:
        Embeddings [height·width, D], float32. Neighbours have similar ones.

    Example:
        >>> sine_cosine_positions(16, 16, 128, 0.5).shape
        torch.Size([256, 128])
    """
    quarter = dim // 4
    frequencies = _BASE ** -(torch.arange(quarter, dtype=torch.float32) / quarter)
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * frequencies
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * frequencies
    parts = [
        wave(angles).expand(height, width, quarter)
        for angles in (rows, columns)
        for wave in (torch.sin, torch.cos)
    ]
    values = torch.cat(parts, dim=-1).flatten(0, 1)
    return values / values.std() * scale


@torch.no_grad()
def begin_locally(network: TokenBackbone, scale: float) -> None:
    """Begin encoder and decoder with sine-cosine positions, and half of their heads with local attention.

    Random positions of 0.02 disappear beside the content of tokens with many channels. The model then does
    not learn which known token is next to a masked one, and draws each token for itself. A head whose
    queries and keys have equal weights attends to similar tokens (mimetic initialisation, arXiv:2305.09828),
    which are neighbours here.

    Args:
        network: the model, whose weights are changed in place.
        scale: standard deviation of the positions, above 0.
    """
    height, width = network.config.position_grid
    values = sine_cosine_positions(height, width, network.config.embed_dim, scale)
    for embedding in (network.encoder_pos_embed_learned, network.decoder_pos_embed_learned):
        # The class tokens of MAR come first.
        embedding[0, -height * width :] = values.to(embedding)
    for block in (*network.encoder_blocks, *network.decoder_blocks):
        _attend_to_neighbours(cast("Block", block).attn)


def _attend_to_neighbours(attention: Attention) -> None:
    """Give half of the heads queries that equal their keys."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    dim = weight.shape[1]
    rows = dim // attention.num_heads * (attention.num_heads // 2)
    # Xavier's deviation for a square matrix, times a sharpness.
    equal = torch.randn(rows, dim, dtype=torch.float32) * _SHARPNESS * dim**-0.5
    for start in (0, dim):
        weight[start : start + rows] = equal.to(weight)
        bias[start : start + rows] = 0
