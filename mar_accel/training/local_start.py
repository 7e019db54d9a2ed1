"""Weights to begin a training with, from which attention to neighbours is already there.

A small model does not find out by itself which known token lies beside a masked one, at least not in the
first thousands of steps. So heads of the decoder begin like the taps of a convolution (as in ConViT,
arXiv:2103.10697): each one attends to the token above, below, left or right. Sine-cosine positions make this
exact: a rotation of sine and cosine moves them by a distance. Such a head sees nothing else, and hardly
learns to. So the encoder, and half of the heads in every second block of the decoder, begin as in MAR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.transformer import Attention, Block

# Rows and columns from a query to the token that a head attends to; head h has the entry h mod 4.
OFFSETS = ((-1, 0), (1, 0), (0, -1), (0, 1))
# Highest and lowest frequency of the positions, in radians per token. With the lowest one, no two places on a
# grid of 16×16 tokens are alike.
_FREQUENCY_RANGE = (2.5, 0.15)
# With it, a head of width 32 gives more than 80 % of its attention to its token.
_SHARPNESS = 3.0
# Tokens enter beside the positions, with a standard deviation near theirs.
_CONTENT_GAIN = 3.0
_LEAK = 0.1


def wave_positions(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of row and column, in the first half of the channels; the others are 0.

    Args:
        height, width: size of the token grid.
        dim: width D of the model, a multiple of 8.

    Returns:
        Embeddings [height·width, D], float32: sines of the row, cosines of the row, sines of the column,
        cosines of the column, D/8 frequencies each, then D/2 zeros. Their mean square is 1 in the first half.

    Example:
        >>> wave_positions(16, 16, 128).shape
        torch.Size([256, 128])
    """
    frequencies = _frequencies(dim)
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * frequencies
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * frequencies
    waves = [
        wave(angles).expand(height, width, -1)
        for angles in (rows, columns)
        for wave in (torch.sin, torch.cos)
    ]
    values = torch.cat(waves, dim=-1).flatten(0, 1) * math.sqrt(2)
    return torch.cat([values, torch.zeros_like(values)], dim=1)


def _frequencies(dim: int) -> Tensor:
    high, low = (math.log(value) for value in _FREQUENCY_RANGE)
    return torch.linspace(high, low, dim // 8, dtype=torch.float32).exp()


@torch.no_grad()
def start_locally(network: TokenBackbone) -> None:
    """Begin with sine-cosine positions, and with heads of the decoder that attend to one neighbour each.

    Args:
        network: the model, whose weights are changed in place.

    Raises:
        ConfigError: the width of the model has no room for the positions.
    """
    config = network.config
    if config.num_heads % 2 or config.embed_dim % (4 * config.num_heads):
        raise ConfigError(
            "training.local_start needs an even model.architecture.num_heads, and four times of it (or a "
            f"multiple) as embed_dim, got {config.num_heads} and {config.embed_dim}."
        )
    height, width = config.position_grid
    positions = wave_positions(height, width, config.embed_dim)
    for embedding in (network.encoder_pos_embed_learned, network.decoder_pos_embed_learned):
        # The class tokens of MAR come first.
        embedding[0, -height * width :] = positions.to(embedding)
    content = network.z_proj.weight
    content[config.embed_dim // 2 :] *= _CONTENT_GAIN
    content[: config.embed_dim // 2] *= _LEAK
    # The encoder's positions are those of the decoder, so they stay as they are.
    torch.nn.init.eye_(network.decoder_embed.weight)
    torch.nn.init.zeros_(network.decoder_embed.bias)
    for number, block in enumerate(cast("Iterable[Block]", network.decoder_blocks)):
        heads = config.num_heads if number % 2 == 0 else config.num_heads // 2
        _attend_to_neighbours(block.attn, heads)


def _attend_to_neighbours(attention: Attention, heads: int) -> None:
    """Give each of the first heads queries that match the keys of one neighbour."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    dim = weight.shape[1]
    width = dim // attention.num_heads
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query, key = _shifted(dim, width, OFFSETS[head % len(OFFSETS)], first=head)
        weight[:dim][rows] = math.sqrt(_SHARPNESS) * query.to(weight)
        weight[dim : 2 * dim][rows] = math.sqrt(_SHARPNESS) * key.to(weight)
        bias[:dim][rows] = bias[dim : 2 * dim][rows] = 0


def _shifted(dim: int, width: int, offset: tuple[int, int], first: int) -> tuple[Tensor, Tensor]:
    """Projections [width, D] of queries and keys, whose product is largest at the offset.

    A head of width d takes d/4 of the frequencies, for rows and for columns.
    """
    number, frequencies = dim // 8, _frequencies(dim)
    step = number // (width // 4)
    query, key = torch.zeros(2, width, dim, dtype=torch.float32)
    for axis, distance in enumerate(offset):
        for place, index in enumerate(range(first % step, number, step)):
            row = axis * (width // 2) + 2 * place
            sine, cosine = axis * 2 * number + index, (axis * 2 + 1) * number + index
            angle = float(frequencies[index]) * distance
            key[row, sine] = key[row + 1, cosine] = 1
            query[row, sine] = query[row + 1, cosine] = math.cos(angle)
            query[row, cosine], query[row + 1, sine] = math.sin(angle), -math.sin(angle)
    return query, key
