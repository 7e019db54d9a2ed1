"""Parts of a transformer block, so that caches can read and replace keys and values."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mar_accel.models.transformer import Block


def blocks_of(modules: nn.ModuleList) -> list[Block]:
    """Blocks of an encoder or decoder, as a typed list."""
    return cast("list[Block]", list(modules))


def project(block: Block, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Project normalised tokens [R, n, D] to queries [R, H, n, d] and key-value rows [R, n, 2D]."""
    dim = normed.shape[-1]
    qkv = block.attn.qkv(normed)
    (q,) = block.attn.split_heads(qkv[..., :dim], 1)
    return q, qkv[..., dim:]


def attend_and_mlp(block: Block, x: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Run attention and MLP of a block.

    Args:
        block: the transformer block.
        x: tokens [R, n, D].
        q: queries of the tokens [R, H, n, d].
        kv: keys and values, as rows [R, m, 2D].
    """
    k, v = block.attn.split_heads(kv, 2)
    x = x + block.attn.attend(q, k, v)
    return x + block.mlp(block.norm2(x))
