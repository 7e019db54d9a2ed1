"""What is typed after ``-m``, as combinations: comma-separated values, and rows from a file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from mar_accel.config.compose import group_choices
from mar_accel.config.rows import Row, merge_overrides
from mar_accel.config.swept_values import refuse_impossible_values, refuse_no_member
from mar_accel.errors import ConfigError
from mar_accel.sweeps.combinations import Combination


def combinations(
    arguments: Sequence[str], parser: OverridesParser, rows: Sequence[Row] | None = None
) -> list[Combination]:
    """Every combination of the swept values; with rows, those of each row.

    Args:
        arguments: overrides as typed, where commas separate the values of a sweep.
        parser: Hydra's parser of overrides.
        rows: named rows of overrides, which take precedence over ``arguments``. None: no rows.

    Example:
        >>> combinations(["cache=none,lazymar", "seed=0"], parser)
        [Combination(overrides=('cache=none', 'seed=0'), row=''), ...]
    """
    if rows is None:
        return [Combination(own) for own in _product(arguments, parser)]
    found = []
    for row in rows:
        merged = merge_overrides(group_choices(arguments), group_choices(row.overrides))
        found += [Combination(own, row.name) for own in _product(merged, parser)]
    return found


def _product(arguments: Sequence[str], parser: OverridesParser) -> list[tuple[str, ...]]:
    """All combinations; the last override of a key counts."""
    choices: dict[str, list[str]] = {}
    overrides = {own.get_key_element(): own for own in parser.parse_overrides(list(arguments))}
    refuse_impossible_values(list(overrides.values()))
    for override in overrides.values():
        key = override.get_key_element()
        if not override.is_sweep_override():
            # A deletion such as ~cache.token has no value.
            choices[key] = [
                key
                if override.value() is None and override.is_delete()
                else f"{key}={override.get_value_element_as_str()}"
            ]
        elif override.is_discrete_sweep():
            refuse_no_member(override)
            choices[key] = list(dict.fromkeys(f"{key}={v}" for v in override.sweep_string_iterator()))
        else:
            raise ConfigError(
                f"{override.input_line} is a range of real numbers, which only a search can use; list "
                "values, or choose hydra/sweeper=search."
            )
    return list(itertools.product(*choices.values()))
