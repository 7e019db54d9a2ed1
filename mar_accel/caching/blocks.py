"""Transformer blocks taken apart where caches put keys and values in, and take them out."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mar_accel.models.transformer import Block


def blocks_of(modules: nn.ModuleList) -> list[Block]:
    """The blocks of an encoder or decoder."""
    return cast("list[Block]", list(modules))


def project(block: Block, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [R, H, n, d], and keys and values as rows [R, n, 2D], of normalised tokens [R, n, D]."""
    dim = normed.shape[-1]
    qkv = block.attn.qkv(normed)
    (q,) = block.attn.split_heads(qkv[..., :dim], 1)
    return q, qkv[..., dim:]


def attend_and_mlp(block: Block, x: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Finish a block for the tokens x [R, n, D] whose queries are given; kv [R, m, 2D]."""
    k, v = block.attn.split_heads(kv, 2)
    x = x + block.attn.attend(q, k, v)
    return x + block.mlp(block.norm2(x))
