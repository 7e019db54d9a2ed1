"""Decode orders of the tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.utils.readable import Readable


class Order(Readable, ABC):
    """Decode order of the tokens on a grid (h, w), with optional stages.

    A custom order defines ``permutation``, and ``stage_sizes`` if it has more than one stage.

    Example:
        class ReverseRaster(Order):
            def permutation(self, grid, generator):
                return torch.arange(grid[0] * grid[1]).flip(0)
    """

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """Number of tokens per stage; the sum must be L = h·w. The default is one stage."""
        return (grid[0] * grid[1],)

    @abstractmethod
    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Decode order of one image: int64 [L], stage by stage, first position decoded first."""
        raise NotImplementedError


class RandomOrder(Order):
    """Uniformly random permutation per image (MAR)."""

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.randperm(grid[0] * grid[1], generator=generator, device="cpu")


class RasterOrder(Order):
    """Row by row from the top left, the same for all images."""

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return _counted(grid[0] * grid[1])


class SubsampleOrder(Order):
    """Strided sub-grids from coarse to fine, in random order inside a sub-grid.

    The first sub-grid has the tokens of every 2^(n-1)-th row and column. Each further sub-grid halves the
    stride and adds the new tokens. All sub-grids form one stage, so step sizes do not depend on them.

    Args:
        num_levels: number of sub-grids n, at least 1.
    """

    def __init__(self, num_levels: int = 3):
        if num_levels < 1:
            raise ConfigError(f"sampler.order.num_levels must be ≥ 1, got {num_levels}.")
        self.num_levels = num_levels

    def levels(self, grid: tuple[int, int]) -> list[Tensor]:
        """Positions of each sub-grid, coarse to fine, ascending inside a sub-grid."""
        (height, width), levels = grid, []
        largest = 2 ** (self.num_levels - 1)
        if largest >= max(grid):
            raise ConfigError(
                f"sampler.order.num_levels={self.num_levels} needs a grid with a side above {largest} "
                f"tokens, got {height}x{width}; lower it."
            )
        taken = torch.zeros(grid, dtype=torch.bool, device="cpu")
        for level in reversed(range(self.num_levels)):
            new = torch.zeros(grid, dtype=torch.bool, device="cpu")
            new[:: 2**level, :: 2**level] = True
            levels.append((new & ~taken).flatten().nonzero().flatten())
            taken |= new
        return levels

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        self.levels(grid)  # rejects a grid that is too small, before any random draw
        return super().stage_sizes(grid)

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return shuffled(self.levels(grid), generator)


class HaltonOrder(Order):
    """Two-dimensional Halton sequence (Halton-MaskGIT, arXiv:2503.17076).

    Args:
        roll: start the sequence at a random place per image. False: the same order for all images.
    """

    def __init__(self, roll: bool = False):
        self.roll = roll

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        order = torch.tensor(halton_positions(*grid), dtype=torch.int64, device="cpu")
        if not self.roll:
            return order
        start = int(torch.randint(len(order), (1,), generator=generator, device="cpu"))
        return order.roll(-start)


class BisectionOrder(Order):
    """GtR's stages by recursive bisection, in random order inside a stage (arXiv:2510.17171).

    Round k = 1 … n-1 removes the tokens with (i + j) mod 2^k = 2^(k-1) from the unallocated set. The first
    round gives the last stage (reconstruction), which is half a checkerboard. The tokens that remain after
    all rounds are the first stage.

    Args:
        num_stages: number of stages n, at least 1.
        first_parity: parity of i + j of the tokens decoded before the last stage: "even" or "odd".
            "odd" uses i + j + 1 instead of i + j.
    """

    def __init__(self, num_stages: int = 3, first_parity: str = "even"):
        if num_stages < 1:
            raise ConfigError(f"sampler.order.num_stages must be ≥ 1, got {num_stages}.")
        if first_parity not in ("even", "odd"):
            raise ConfigError(f"sampler.order.first_parity must be even or odd, got {first_parity}.")
        self.num_stages = num_stages
        self.first_parity = first_parity

    def stages(self, grid: tuple[int, int]) -> list[Tensor]:
        """Positions of each stage, ascending.

        Raises:
            ConfigError: the grid is too small for this number of stages.
        """
        height, width = grid
        diagonal = _counted(height).unsqueeze(1) + _counted(width) + (self.first_parity == "odd")
        rest, stages = diagonal.flatten(), []
        positions = _counted(height * width)
        for k in range(1, self.num_stages):
            taken = rest % 2**k == 2 ** (k - 1)
            if not bool(taken.any()) or bool(taken.all()):
                raise ConfigError(
                    f"sampler.order.num_stages must be ≤ {k} on a grid of {height}x{width} tokens, "
                    f"got {self.num_stages}."
                )
            stages.append(positions[taken])
            positions, rest = positions[~taken], rest[~taken]
        return [positions, *reversed(stages)]

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages(grid))

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return shuffled(self.stages(grid), generator)


def halved(length: int, num_stages: int) -> list[int]:
    """Stage sizes of a bisection, for an order that has no stages of its own.

    The last stage has half of the tokens, the stage before it half of the rest, and so on.
    """
    if length < 2 ** (num_stages - 1):
        raise ConfigError(
            f"sampler.step_sizes.rates has too many values: {length} tokens cannot be halved into "
            f"{num_stages} stages; remove some."
        )
    sizes: list[int] = []
    for _ in range(num_stages - 1):
        sizes.insert(0, length // 2)
        length -= length // 2
    return [length, *sizes]


def shuffled(parts: list[Tensor], generator: torch.Generator) -> Tensor:
    """Shuffle each part and concatenate them in order."""
    return torch.cat([part[torch.randperm(len(part), generator=generator, device="cpu")] for part in parts])


def _counted(stop: int) -> Tensor:
    """0 … stop − 1 on the CPU, where orders are drawn, also under another default device."""
    return torch.arange(stop, dtype=torch.int64, device="cpu")


@lru_cache
def halton_positions(height: int, width: int) -> tuple[int, ...]:
    """Grid positions in the order in which the Halton points first hit them.

    Base 2 gives the row, base 3 the column.
    """
    seen: dict[int, None] = {}
    for index in count(1):
        row, column = _radical_inverse_cell(index, 2, height), _radical_inverse_cell(index, 3, width)
        seen.setdefault(row * width + column)
        if len(seen) == height * width:
            break
    return tuple(seen)


def _radical_inverse_cell(index: int, base: int, size: int) -> int:
    """floor(size · Φ_base(index)), in integers.

    Floats would round to wrong cells if the base divides the size.
    """
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * size // denominator
