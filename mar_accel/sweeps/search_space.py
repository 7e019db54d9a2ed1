"""What a search may choose: Hydra's sweep syntax as distributions of Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mar_accel.config.swept_values import MOST_RUNS, num_values, refuse_impossible_values
from mar_accel.errors import ConfigError

_MOST_EXAMPLES = 64


def search_space(
    arguments: Sequence[str], parser: OverridesParser
) -> tuple[list[str], dict[str, BaseDistribution]]:
    """The fixed overrides, and the distribution of every key that a search chooses.

    Args:
        arguments: overrides in Hydra's sweep syntax: ``sampler=mar,gtr`` or ``choice(mar, gtr)``,
            ``range(16, 65, 8)`` (the end is excluded), ``interval(0.05, 0.6)``, and ``tag(log, …)`` of an
            interval for a logarithmic scale. The last override of a key counts.
        parser: Hydra's parser of overrides.

    Raises:
        ConfigError: nothing is to be chosen.

    Example:
        >>> search_space(["seed=0", "cache.token.ratios=interval(0.1, 0.5)"], parser)
        (['seed=0'], {'cache.token.ratios': FloatDistribution(high=0.5, log=False, low=0.1, step=None)})
    """
    overrides = {override.get_key_element(): override for override in parser.parse_overrides(list(arguments))}
    refuse_impossible_values(list(overrides.values()), limited=False)
    space = {key: _distribution(own) for key, own in overrides.items() if own.is_sweep_override()}
    # A single value that is written as a sweep is no choice.
    single = {k: d for k, d in space.items() if isinstance(d, CategoricalDistribution) and d.single()}
    space = {key: own for key, own in space.items() if key not in single}
    fixed = [str(own.input_line) for own in overrides.values() if not own.is_sweep_override()]
    fixed += [f"{key}={own.choices[0]}" for key, own in single.items()]
    if not space:
        raise ConfigError(
            "a search needs keys to choose: sampler=mar,gtr, sampler.num_iter=range(16,65,8) or "
            "cache.token.ratios=interval(0.05,0.6)."
        )
    return fixed, space


def chosen_overrides(values: Mapping[str, Any]) -> list[str]:
    """The overrides that a trial has chosen."""
    return [f"{key}={value}" for key, value in values.items()]


def example_choices(space: Mapping[str, BaseDistribution]) -> list[list[str]]:
    """Choices in which every member of every group occurs, in all combinations if these are not too many."""
    members = {key: d.choices for key, d in space.items() if isinstance(d, CategoricalDistribution)}
    groups = {key: choices for key, choices in members.items() if "/" in key or "." not in key}
    others = [f"{key}={_any_value(own)}" for key, own in space.items() if key not in groups]
    if math.prod(len(choices) for choices in groups.values()) <= _MOST_EXAMPLES:
        chosen: list[tuple[Any, ...]] = list(itertools.product(*groups.values()))
    else:
        most = max(len(choices) for choices in groups.values())
        chosen = [tuple(choices[n % len(choices)] for choices in groups.values()) for n in range(most)]
    return [[*(f"{k}={v}" for k, v in zip(groups, own, strict=True)), *others] for own in chosen]


def _any_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low


def _distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _range(override, value)
    if num_values(override) > MOST_RUNS:
        raise ConfigError(f"{override.input_line} has too many values in no order; leave out the shuffle.")
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(f"{override.input_line} matches no member of the group; correct the pattern.")
    return CategoricalDistribution(choices)


def _range(override: Override, value: RangeSweep) -> BaseDistribution:
    """A range, whose end is excluded as in Python."""
    first, step = Decimal(str(value.start)), Decimal(str(value.step))
    last = first + (num_values(override) - 1) * step
    low, high, step = min(first, last), max(first, last), abs(step)
    if all(isinstance(number, int) for number in (value.start, value.stop, value.step)):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(float(low), float(high), step=float(step))
