"""Few rows in which every two values of different factors meet, and their settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings

Row = dict[str, str]
Pair = frozenset[tuple[str, str]]


@lru_cache(maxsize=512)
def composed(command: str, *overrides: str) -> Settings:
    """The settings of a command; walks ask for them again, and to compose takes longer than to sample."""
    return compose_settings(command, overrides)


def pairs_of(row: Mapping[str, str]) -> set[Pair]:
    """The pairs of (factor, value) in a row."""
    return {frozenset(pair) for pair in combinations(row.items(), 2)}


def pairwise(factors: Mapping[str, Sequence[str]], impossible: Collection[Pair] = ()) -> list[Row]:
    """Rows with one value of each factor, so that every possible pair of values is in at least one row.

    Greedy: a row starts with a pair that is missing, and each further value adds the most missing pairs. The
    number of rows is a little above the product of the two longest factors. The result is always the same.

    Args:
        factors: values by factor.
        impossible: pairs of (factor, value) that are in no row.

    Example:
        >>> len(pairwise({"a": "01", "b": "01", "c": "01"}))
        4
    """
    every = [
        frozenset({(first, a), (second, b)})
        for first, second in combinations(factors, 2)
        for a in factors[first]
        for b in factors[second]
    ]
    missing = [pair for pair in every if pair not in impossible]
    rows: list[Row] = []
    while missing:
        row = dict(missing[0])
        for factor in factors:
            if factor not in row:
                row[factor] = _best(row, factor, factors[factor], missing, impossible)
        covered = pairs_of(row)
        missing = [pair for pair in missing if pair not in covered]
        rows.append({factor: row[factor] for factor in factors})
    return rows


def _best(
    row: Row, factor: str, values: Sequence[str], missing: Collection[Pair], impossible: Collection[Pair]
) -> str:
    """The possible value that adds the most missing pairs to a row."""

    def added(value: str) -> set[Pair]:
        return {frozenset({(factor, value), other}) for other in row.items()}

    possible = [value for value in values if not added(value) & set(impossible)]
    return max(possible, key=lambda value: len(added(value) & set(missing)))
