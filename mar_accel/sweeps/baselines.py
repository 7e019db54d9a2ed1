"""Which row of a collected table the others are compared with: one for all, or one per value of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mar_accel.config.overrides import same_value, split_outside
from mar_accel.errors import ConfigError
from mar_accel.sweeps.collected_table import FLOPS, Collected, CollectedRow
from mar_accel.sweeps.swept_keys import shown_value, value_in, value_text


def find_baselines(
    rows: Sequence[CollectedRow], wanted: str | None, per: Sequence[str] = (), node: str = "collect"
) -> list[int | None]:
    """The place of the baseline of each row.

    Args:
        rows: the rows, at least one.
        wanted: overrides that describe the baseline, such as "cache=none". None: the row with the most FLOPs.
        per: keys whose values each have a baseline of their own, such as "sampler". Empty: one for all rows.
        node: config node of the arguments, for messages.

    Returns:
        Places among ``rows``; that of a baseline is its own. None: no row with the same values is described.

    Raises:
        ConfigError: no row is described, or several for the same values; or a key of ``per`` is none of the
            runs, or is described, too.

    Example:
        >>> find_baselines(rows_of_two_samplers_without_and_with_lazymar, "cache=none", ["sampler"])
        [0, 0, 2, 2]
    """
    described = dict(part.partition("=")[::2] for part in split_outside(wanted or "", " ") if part)
    _check_keys(rows, described, per, node)
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(tuple(value_text(_value_of(row, key)) for key in per), []).append(place)
    bases: list[int | None] = [None] * len(rows)
    for places in groups.values():
        base = _baseline([rows[place] for place in places], wanted, described, per, node)
        for place in places:
            bases[place] = None if base is None else places[base]
    if all(base is None for base in bases):
        names = "; ".join(row.name for row in rows)
        raise ConfigError(f"{node}.baseline={wanted} describes 0 rows; choose one of: {names}.")
    return bases


def not_compared(table: Collected) -> list[str]:
    """A note on the rows that have no baseline; empty if all have one."""
    names = [row.name for row, base in zip(table.rows, table.compared_with, strict=True) if base is None]
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    same = ", ".join(table.baseline_per)
    return [f"not compared, since no row with the same {same} has {table.described}: {names[0]}{more}."]


def _check_keys(
    rows: Sequence[CollectedRow], described: Mapping[str, str], per: Sequence[str], node: str
) -> None:
    for key in per:
        if key in described:
            raise ConfigError(
                f"{node}.baseline_per has {key}, which {node}.baseline describes, too; name keys that a row "
                "and its baseline have in common."
            )
        if all(_value_of(row, key) is None for row in rows):
            raise ConfigError(f"{node}.baseline_per has {key}, which is no key of these runs; correct it.")


def _baseline(
    rows: Sequence[CollectedRow],
    wanted: str | None,
    described: Mapping[str, str],
    per: Sequence[str],
    node: str,
) -> int | None:
    """The place of the baseline among rows that share it; None if none is described."""
    if wanted is None:
        return max(range(len(rows)), key=lambda place: rows[place].value(FLOPS) or 0.0)
    found = [
        place
        for place, row in enumerate(rows)
        if all(same_value(_value_of(row, name), text) for name, text in described.items())
    ]
    if len(found) > 1:
        names = "; ".join(rows[place].name for place in found)
        own = " ".join(f"{key}={shown_value(_value_of(rows[0], key))}" for key in per)
        raise ConfigError(
            f"{node}.baseline={wanted} describes {len(found)} rows{own and f' with {own}'}; choose one of: "
            f"{names}. Or name in {node}.baseline_per the keys whose values each have a baseline."
        )
    return found[0] if found else None


def _value_of(row: CollectedRow, key: str) -> Any:
    """The value of a swept key, else that of the config."""
    return row.values[key] if key in row.values else value_in(row.runs[0], key)
