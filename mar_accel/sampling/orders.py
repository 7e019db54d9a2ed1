"""Decode orders: which token comes when."""

from __future__ import annotations

import torch
from torch import Tensor


class Order:
    """An order of the grid's tokens, possibly in stages."""

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """Tokens per stage; they add up to L. One stage unless the order says otherwise."""
        return (grid[0] * grid[1],)

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """The decode order of one image, int64 [L], decoded from the front; stages in turn."""
        raise NotImplementedError


class RandomOrder(Order):
    """A uniformly random permutation per image (MAR)."""

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.randperm(grid[0] * grid[1], generator=generator)
