"""What is typed for a sweep: values that cannot be swept are refused before they are listed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import OverrideParseException

from mar_accel.config.overrides import key_of
from mar_accel.errors import ConfigError

# The config of every run is in memory before the first one starts.
MOST_RUNS = 10_000
# Optuna cannot draw from wider ranges, and no key of ours takes such numbers.
_LARGEST = 10**15
_BATCH = "hydra.sweeper.max_batch_size"


def refuse_impossible_sweep(arguments: Sequence[str], limited: bool) -> None:
    """Raise ConfigError for swept values of a command line that no sweep can have.

    Args:
        arguments: the command line; what is no override is not looked at.
        limited: whether every combination is a run. False: a search may choose from any number.
    """
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key_of(key) == _BATCH and value != "null" and not (value.isdecimal() and int(value)):
            # Hydra's own sweeper would start no run at all.
            raise ConfigError(f"{_BATCH} must be an integer ≥ 1 or null, got {value}.")
        try:
            overrides += OverridesParser.create().parse_overrides([argument])
        except OverrideParseException:  # a flag, or Hydra will say what is wrong
            continue
    refuse_impossible_values(overrides, limited)


def refuse_impossible_values(overrides: Sequence[Override], limited: bool = True) -> None:
    """Raise ConfigError for an empty or endless range, a range of a whole sweep's key, or too many runs.

    Args:
        overrides: parsed overrides.
        limited: whether every combination is a run.
    """
    runs = 1
    for override in overrides:
        if not override.is_sweep_override():
            continue
        key = str(override.get_key_element())
        if key_of(key).startswith("sweep."):
            raise ConfigError(
                f"{override.input_line} has several values, but the whole sweep has one {key}; give "
                "it one value."
            )
        runs *= num_values(override)
        if limited and runs > MOST_RUNS:
            raise ConfigError(
                f"{override.input_line} makes more than {MOST_RUNS:,} runs; sweep fewer values, or choose "
                "hydra/sweeper=search."
            )


def refuse_no_member(override: Override) -> None:
    """Raise ConfigError for a glob() that matches no member; the override must know Hydra's search path."""
    if override.is_discrete_sweep() and next(override.sweep_string_iterator(), None) is None:
        raise ConfigError(f"{override.input_line} matches no member of the group; correct the pattern.")


def num_values(override: Override) -> int:
    """How many values an override sweeps; 1 where only Hydra's search path or a search knows.

    Raises:
        ConfigError: it has no value, or its limits are no numbers to choose between.
    """
    value, written = override.value(), override.input_line
    if isinstance(value, ChoiceSweep) and not isinstance(value, RangeSweep):
        return max(1, len(value.list))
    if isinstance(value, IntervalSweep):
        _check_interval(value, str(written))
    if not isinstance(value, RangeSweep):
        return 1
    start, stop, step = value.start or 0, value.stop or 0, value.step
    _check_limits((start, stop, step), str(written))
    if step == 0:
        raise ConfigError(f"{written} has a step of 0; give it another step.")
    exact = [Decimal(str(number)) for number in (start, stop, step)]
    count = math.ceil((exact[1] - exact[0]) / exact[2])
    if count < 1:
        raise ConfigError(f"{written} is an empty range; its end is excluded.")
    return count


def _check_interval(value: IntervalSweep, written: str) -> None:
    low, high = value.start or 0, value.end or 0
    _check_limits((low, high), written)
    if low > high:
        raise ConfigError(f"{written} is an empty interval; write the smaller number first.")
    if "log" in value.tags and low <= 0:
        raise ConfigError(f"{written} has a logarithmic scale, which needs numbers > 0; raise its start.")


def _check_limits(numbers: Sequence[float], written: str) -> None:
    if not all(math.isfinite(number) and abs(number) <= _LARGEST for number in numbers):
        raise ConfigError(f"{written} needs finite numbers up to {_LARGEST:.0e}; correct its limits.")
