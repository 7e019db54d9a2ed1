"""What an image owes to its batch: the order of sums in matrix products, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .conftest import EAGER_REFRESH
from .row_by_row import RowByRow

Decode = Callable[..., Tensor]
TOKEN = [*EAGER_REFRESH, "cache.token.minimum_extra=3", "cache.token.ratios=0.1"]
METHODS = [
    ["sampler=mar", "cache=none"],
    ["sampler=mar", "cache=lazymar", *TOKEN],
    ["sampler=gtr", "cache=none", "sampler.num_diffusion_steps=20"],
    ["sampler=gtr", "cache=token", "sampler.num_diffusion_steps=20", *TOKEN],
]


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
