"""An order and step sizes of one's own: tokens on a spiral from the middle, ever more of them per step."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from mar_accel.sampling.orders import Order
from mar_accel.sampling.step_sizes import StepSizes


class SpiralOrder(Order):
    """Tokens by their distance from the middle of the grid, the same for every image."""

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        height, width = grid
        rows = torch.arange(height).unsqueeze(1) - (height - 1) / 2
        columns = torch.arange(width) - (width - 1) / 2
        turn = torch.atan2(rows, columns) / (2 * torch.pi)
        radius = torch.maximum(rows.abs(), columns.abs())
        return (radius + turn).flatten().argsort(stable=True)


class GrowingSteps(StepSizes):
    """Step k decodes about k + 1 parts of the tokens.

    Args:
        num_steps: AR steps.
    """

    def __init__(self, num_steps: int = 12):
        self.num_steps = num_steps

    def sizes(self, stage_sizes: Sequence[int]) -> list[int]:
        length = sum(stage_sizes)
        total = self.num_steps * (self.num_steps + 1) // 2
        bounds = [length * k * (k + 1) // (2 * total) for k in range(self.num_steps + 1)]
        return [stop - start for start, stop in pairwise(bounds)]
