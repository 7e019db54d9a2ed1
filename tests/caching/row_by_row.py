"""Matrix products whose sums do not depend on the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class RowByRow(TorchDispatchMode):
    """Computes matrix products row by row and attention image by image.

    Libraries choose another order of the sums for another number of rows. Here, a row has one order.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (aten.linear.default, aten.matmul.default):
            x, *others = args
            if others[0].ndim <= 2:
                rows = [func(row, *others) for row in x.flatten(0, -2).split(1)]
                return torch.cat(rows).unflatten(0, x.shape[:-1])
            # One matrix per image on both sides.
            return torch.cat([func(*pair) for pair in zip(x.split(1), others[0].split(1), strict=True)])
        if func is aten.addmm.out:
            bias, x, weight = args
            return kwargs["out"].copy_(torch.cat([torch.addmm(bias, row, weight) for row in x.split(1)]))
        if func is aten.scaled_dot_product_attention.default:
            return torch.cat(
                [func(*image, **kwargs) for image in zip(*(x.split(1) for x in args), strict=True)]
            )
        return func(*args, **kwargs)
