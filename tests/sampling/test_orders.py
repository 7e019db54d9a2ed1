"""Orders against the golden lists, and as permutations of any grid."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mar_accel.errors import ConfigError
from mar_accel.sampling.orders import BisectionOrder, HaltonOrder, RandomOrder, RasterOrder, SubsampleOrder

grids = st.tuples(st.integers(1, 12), st.integers(1, 12))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _orders(grid: tuple[int, int]) -> list:
    orders = [RandomOrder(), RasterOrder(), HaltonOrder(), HaltonOrder(roll=True)]
    for depth in range(1, 6):
        for order in (SubsampleOrder(depth), BisectionOrder(depth), BisectionOrder(depth, "odd")):
            try:
                order.stage_sizes(grid)
            except ConfigError:
                continue
            orders.append(order)
    return orders


@settings(deadline=None, max_examples=40)
@given(grid=grids, seed=st.integers(0, 1000))
def test_orders_are_permutations_in_stages(grid: tuple[int, int], seed: int) -> None:
    length = grid[0] * grid[1]
    for order in _orders(grid):
        positions = order.permutation(grid, _generator(seed))
        assert positions.sort().values.tolist() == list(range(length))
        sizes = order.stage_sizes(grid)
        assert sum(sizes) == length and min(sizes) >= 1


@settings(deadline=None, max_examples=40)
@given(grid=grids, num_stages=st.integers(2, 5), odd=st.booleans())
def test_bisection_follows_its_definition(grid: tuple[int, int], num_stages: int, odd: bool) -> None:
    """Stage of (i, j) by the number of trailing zero bits of i + j, not by rounds."""
    expected: list[set[int]] = [set() for _ in range(num_stages)]
    for position in range(grid[0] * grid[1]):
        diagonal = sum(divmod(position, grid[1])) + odd
        zeros = (
            num_stages - 1 if diagonal == 0 else min(num_stages - 1, (diagonal & -diagonal).bit_length() - 1)
        )
        expected[num_stages - 1 - zeros].add(position)
    order = BisectionOrder(num_stages, "odd" if odd else "even")
    if not all(expected):
        with pytest.raises(ConfigError, match=r"sampler\.order\.num_stages"):
            order.stage_sizes(grid)
        return
    assert [set(stage.tolist()) for stage in order.stages(grid)] == expected


def test_bisection_says_how_many_stages_the_grid_gives() -> None:
    with pytest.raises(
        ConfigError, match=r"num_stages must be ≤ \d+ on a grid of 3x4 tokens, got 9"
    ) as error:
        BisectionOrder(9).stage_sizes((3, 4))
    most = int(re.findall(r"≤ (\d+)", str(error.value))[0])
    assert len(BisectionOrder(most).stage_sizes((3, 4))) == most
    with pytest.raises(ConfigError):
        BisectionOrder(most + 1).stage_sizes((3, 4))


def test_stages_are_shuffled_per_image_and_come_in_turn() -> None:
    order, grid = BisectionOrder(3), (16, 16)
    first, second = order.permutation(grid, _generator(1)), order.permutation(grid, _generator(2))
    for start, stop in ((0, 64), (64, 128), (128, 256)):
        assert first[start:stop].tolist() != second[start:stop].tolist()
        assert set(first[start:stop].tolist()) == set(second[start:stop].tolist())


def test_rolled_halton_starts_elsewhere_in_the_same_circle() -> None:
    plain = HaltonOrder().permutation((5, 7), _generator()).tolist()
    rolled = HaltonOrder(roll=True).permutation((5, 7), _generator(3)).tolist()
    start = plain.index(rolled[0])
    assert start > 0 and rolled == plain[start:] + plain[:start]


def test_halton_cells_are_exact_on_powers_of_the_base() -> None:
    """The first point has row 1/2 and column 1/3; on 4x9 it lies on a border of cells: row 2, column 3."""
    assert HaltonOrder().permutation((4, 9), _generator())[0] == 2 * 9 + 3


def test_subsample_goes_from_coarse_to_fine() -> None:
    order = SubsampleOrder(3).permutation((8, 6), _generator(0))
    strides = [
        4 if row % 4 == column % 4 == 0 else 2 if row % 2 == column % 2 == 0 else 1
        for row, column in (divmod(int(position), 6) for position in order)
    ]
    assert strides == sorted(strides, reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BisectionOrder(0), r"sampler\.order\.num_stages must be ≥ 1, got 0"),
        (lambda: BisectionOrder(3, "both"), r"sampler\.order\.first_parity must be even or odd, got both"),
        (lambda: SubsampleOrder(0), r"sampler\.order\.num_levels must be ≥ 1, got 0"),
        (lambda: SubsampleOrder(4).stage_sizes((8, 8)), r"sampler\.order\.num_levels=4"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
