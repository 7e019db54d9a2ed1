"""What an image owes to its batch: the order of sums in matrix products, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .conftest import EAGER_REFRESH

Decode = Callable[..., Tensor]
aten = torch.ops.aten
TOKEN = [*EAGER_REFRESH, "cache.token.minimum_extra=3", "cache.token.ratios=0.1"]
METHODS = [
    ["sampler=mar", "cache=none"],
    ["sampler=mar", "cache=lazymar", *TOKEN],
    ["sampler=gtr", "cache=none", "sampler.num_diffusion_steps=20"],
    ["sampler=gtr", "cache=token", "sampler.num_diffusion_steps=20", *TOKEN],
]


class RowByRow(TorchDispatchMode):
    """Computes matrix products row by row and attention image by image.

    Libraries choose another order of the sums for another number of rows. Here, a row has one order.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (aten.linear.default, aten.matmul.default):
            x, *others = args
            rows = [func(row, *others) for row in x.flatten(0, -2).split(1)]
            return torch.cat(rows).unflatten(0, x.shape[:-1])
        if func is aten.addmm.out:
            bias, x, weight = args
            return kwargs["out"].copy_(torch.cat([torch.addmm(bias, row, weight) for row in x.split(1)]))
        if func is aten.scaled_dot_product_attention.default:
            return torch.cat(
                [func(*image, **kwargs) for image in zip(*(x.split(1) for x in args), strict=True)]
            )
        return func(*args, **kwargs)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method[:2]))
def test_only_the_order_of_sums_depends_on_the_batch(run: Decode, method: list[str]) -> None:
    """With products row by row, an image is the same to the last bit, alone and in a batch."""
    with RowByRow():
        alone, together = run(*method, batch=1), run(*method, batch=3)
    assert torch.equal(alone, together[:1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method[:2]))
def test_tokens_agree_to_rounding(run: Decode, method: list[str]) -> None:
    """Less than a tenth of a step of 1 in 255, so a pixel differs by one such step at most."""
    alone, together = run(*method, batch=1), run(*method, batch=3)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=2 / 255 / 10)
