"""Decode orders: which token comes when."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.utils.readable import Readable


class Order(Readable):
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


class RasterOrder(Order):
    """Row by row from the upper left, the same for every image."""

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.arange(grid[0] * grid[1])


class SubsampleOrder(Order):
    """Strided sub-grids, coarse to fine; random per image inside a sub-grid.

    The first sub-grid takes every 2^(n-1)-th row and column, each further one halves the stride and takes
    what is new on it. It is one stage: step sizes and diffusion steps do not follow the sub-grids.

    Args:
        num_levels: n, the number of sub-grids, at least 1.
    """

    def __init__(self, num_levels: int = 3):
        if num_levels < 1:
            raise ConfigError(
                f"sampler.order.num_levels={num_levels} is below 1; give at least one sub-grid."
            )
        self.num_levels = num_levels

    def levels(self, grid: tuple[int, int]) -> list[Tensor]:
        """Positions of each sub-grid, coarse to fine."""
        (height, width), levels = grid, []
        largest = 2 ** (self.num_levels - 1)
        if largest >= max(grid):
            raise ConfigError(
                f"sampler.order.num_levels={self.num_levels} sub-grids need a grid wider than {largest} "
                f"tokens, but this one is {height}x{width}; lower it."
            )
        taken = torch.zeros(grid, dtype=torch.bool)
        for level in reversed(range(self.num_levels)):
            new = torch.zeros(grid, dtype=torch.bool)
            new[:: 2**level, :: 2**level] = True
            levels.append((new & ~taken).flatten().nonzero().flatten())
            taken |= new
        return levels

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        self.levels(grid)  # refuses a grid that is too small before anything is drawn
        return super().stage_sizes(grid)

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return shuffled(self.levels(grid), generator)


class HaltonOrder(Order):
    """The two-dimensional Halton sequence (Halton-MaskGIT, arXiv:2503.17076).

    Args:
        roll: start the list at a place drawn per image; False: the same order for all images.
    """

    def __init__(self, roll: bool = False):
        self.roll = roll

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        order = torch.tensor(halton_positions(*grid))
        if not self.roll:
            return order
        start = int(torch.randint(len(order), (1,), generator=generator))
        return order.roll(-start)


class BisectionOrder(Order):
    """GtR's stages by recursive bisection; random per image inside a stage (arXiv:2510.17171).

    Round k = 1 … n-1 takes the tokens with (i + j) mod 2^k = 2^(k-1) out of the unallocated set. The set
    of the first round, half a checkerboard, is the last stage (reconstruction); what no round takes is the
    first stage.

    Args:
        num_stages: n, at least 1.
        first_parity: "even": the tokens with even i + j come in the stages before the last; "odd": those
            with odd i + j do (i + j + 1 takes the place of i + j).
    """

    def __init__(self, num_stages: int = 3, first_parity: str = "even"):
        if num_stages < 1:
            raise ConfigError(f"sampler.order.num_stages={num_stages} is below 1; give at least one stage.")
        if first_parity not in ("even", "odd"):
            raise ConfigError(f"sampler.order.first_parity={first_parity} is unknown; choose even or odd.")
        self.num_stages = num_stages
        self.first_parity = first_parity

    def stages(self, grid: tuple[int, int]) -> list[Tensor]:
        """Positions of each stage, growing; raises ConfigError where the grid cannot give so many stages."""
        height, width = grid
        diagonal = torch.arange(height).unsqueeze(1) + torch.arange(width) + (self.first_parity == "odd")
        rest, stages = diagonal.flatten(), []
        positions = torch.arange(height * width)
        for k in range(1, self.num_stages):
            taken = rest % 2**k == 2 ** (k - 1)
            if not bool(taken.any()) or bool(taken.all()):
                raise ConfigError(
                    f"sampler.order.num_stages={self.num_stages} is more than a grid of {height}x{width} "
                    f"tokens can give; choose at most {k}."
                )
            stages.append(positions[taken])
            positions, rest = positions[~taken], rest[~taken]
        return [positions, *reversed(stages)]

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages(grid))

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return shuffled(self.stages(grid), generator)


def shuffled(parts: list[Tensor], generator: torch.Generator) -> Tensor:
    """The parts in turn, each in random order."""
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in parts])


@lru_cache
def halton_positions(height: int, width: int) -> tuple[int, ...]:
    """Grid positions in the order in which Halton points (base 2: row, base 3: column) first fall on them."""
    seen: dict[int, None] = {}
    for index in count(1):
        row, column = _radical_inverse_cell(index, 2, height), _radical_inverse_cell(index, 3, width)
        seen.setdefault(row * width + column)
        if len(seen) == height * width:
            break
    return tuple(seen)


def _radical_inverse_cell(index: int, base: int, size: int) -> int:
    """floor(size · Φ_base(index)), in integers: floats would round to wrong cells where base divides size."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * size // denominator
