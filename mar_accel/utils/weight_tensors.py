"""Which tensors can be weights of a network."""

from __future__ import annotations

import torch
from torch import Tensor

# Integers need a scale, and complex numbers would lose a part.
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def unusable_kind(value: Tensor) -> str | None:
    """What keeps a tensor from being a weight, such as "sparse" or "int8"; None if nothing does."""
    if value.is_nested:
        return "nested"
    if value.is_quantized:
        return "quantised"
    if value.layout is not torch.strided:
        return "sparse"
    if value.is_meta:
        return "without values (on the meta device)"
    return None if value.dtype in WEIGHT_DTYPES else str(value.dtype).removeprefix("torch.")
