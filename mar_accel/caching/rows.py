"""Read and write rows of [B, N, W] tensors by position, without copying other rows."""

from __future__ import annotations

import torch
from torch import Tensor


def flat_rows(positions: Tensor, length: int) -> Tensor:
    """Convert positions [B, m] in sequences of ``length`` N to indices [B·m] of the flattened rows [B·N]."""
    images = torch.arange(positions.shape[0], dtype=positions.dtype, device=positions.device)
    return (positions + images.mul_(length).unsqueeze(1)).flatten()


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x [B, N, W] at flat indices [B·m], as [B, m, W]."""
    batch, _, width = x.shape
    return x.reshape(-1, width).index_select(0, rows).view(batch, -1, width)


def write_rows(x: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values [B, m, W] into the contiguous x [B, N, W] at flat indices [B·m], in place."""
    x.view(-1, x.shape[-1]).index_copy_(0, rows, values.reshape(-1, x.shape[-1]).to(x.dtype))
