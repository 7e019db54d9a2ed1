"""Which row of a collected table the others are compared with: one for all, or one for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mar_accel.config.overrides import same_value, split_outside
from mar_accel.errors import ConfigError
from mar_accel.sweeps.collected_table import FLOPS, Collected, CollectedRow
from mar_accel.sweeps.swept_keys import value_in

_MISSING = object()


def find_baselines(rows: Sequence[CollectedRow], wanted: str | None, key: str) -> Sequence[int | None]:
    """The place of the baseline of each row.

    If ``wanted`` describes one row, it is the baseline of all. If it describes several, the baseline of a row
    is the one that has the same values but for the described keys and what is below them.

    Args:
        rows: the rows, at least one.
        wanted: overrides, such as "cache=none". None: the row with the most FLOPs.
        key: the key that holds ``wanted``, for messages.

    Returns:
        Places among ``rows``; that of a baseline is its own. None: no row is the baseline.

    Raises:
        ConfigError: no row is described, or several, and none of them is the baseline of another row.

    Example:
        >>> find_baselines(rows_of_two_samplers_without_and_with_lazymar, "cache=none", "collect.baseline")
        [0, 0, 2, 2]
    """
    if wanted is None:
        most = max(range(len(rows)), key=lambda place: rows[place].value(FLOPS) or 0.0)
        return [most] * len(rows)
    described = dict(part.partition("=")[::2] for part in split_outside(wanted, " ") if part)
    found = [
        place
        for place, row in enumerate(rows)
        if all(same_value(_value_of(row, name), text) for name, text in described.items())
    ]
    if len(found) == 1:
        return found * len(rows)
    bases = [_own_baseline(rows, place, found, tuple(described)) for place in range(len(rows))]
    if all(base in (None, place) for place, base in enumerate(bases)):
        names = "; ".join(row.name for row in ([rows[place] for place in found] or rows))
        what = f"describes {len(found)} rows"
        what += ", and no other row has the same other values as one of them" if found else ""
        raise ConfigError(f"{key}={wanted} {what}; choose one of: {names}.")
    return bases


def without_baseline(table: Collected) -> list[str]:
    """A note for each row that is compared with none."""
    return [
        f"{row.name} is not compared: no single row has {table.described} and its other values."
        for row, base in zip(table.rows, table.compared_with, strict=True)
        if base is None
    ]


def _own_baseline(
    rows: Sequence[CollectedRow], place: int, found: Sequence[int], described: Sequence[str]
) -> int | None:
    if place in found:
        return place
    equal = [base for base in found if _same_others(rows[place], rows[base], described)]
    return equal[0] if len(equal) == 1 else None


def _same_others(row: CollectedRow, base: CollectedRow, described: Sequence[str]) -> bool:
    """Whether two rows have the same values but for the described keys, and what one has below them alone."""
    for key in {*row.values, *base.values} - {*described}:
        ours, theirs = (own.values.get(key, _MISSING) for own in (row, base))
        below = any(key.startswith(f"{name}.") for name in described)
        if ours != theirs and not (below and theirs is _MISSING):
            return False
    return True


def _value_of(row: CollectedRow, key: str) -> Any:
    """The value of a swept key, else that of the config."""
    return row.values[key] if key in row.values else value_in(row.runs[0], key)
