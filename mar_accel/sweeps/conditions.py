"""Conditions on the runs of a sweep, such as ``sampler=gtr,halton cache!=none``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mar_accel.config.overrides import same_value, split_outside
from mar_accel.errors import ConfigError

# None: the run does not have the key.
Lookup = Callable[[str], Any]
_TEST = re.compile(r"([\w./@-]+)(<=|>=|!=|<|>|=)(.+)")
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Condition:
    """What the values of a run must be; all tests of a condition must hold.

    Attributes:
        text: as written.
        tests: key, operator and values of each test. ``=`` holds for any of its values, ``!=`` for none.

    Example:
        >>> Condition.parse("cache=none sampler.num_iter>=32", "sweep.skip").holds(values.get)
        False
    """

    text: str
    tests: tuple[tuple[str, str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, text: str, key: str) -> Condition:
        """Read a condition; raises ConfigError, which names ``key``, if it cannot be read."""
        tests = []
        for word in filter(None, split_outside(" ".join(str(text).split()), " ")):
            found = _TEST.fullmatch(word)
            wanted = [] if found is None else split_outside(found[3], ",")
            # A comma separates values, so a second condition after one would be taken for a value.
            second = any(map(_TEST.fullmatch, wanted))
            if found is None or second or (found[2] in _ORDERED and _number(found[3]) is None):
                raise ConfigError(
                    f"{key}={text} cannot be read at {word}; write KEY=VALUE,VALUE, KEY!=VALUE or KEY<NUMBER "
                    "with spaces between."
                )
            tests.append((found[1].replace("/", "."), found[2], tuple(wanted)))
        if not tests:
            raise ConfigError(f"{key} is empty; write KEY=VALUE, or null for all runs.")
        return cls(text, tuple(tests))

    def holds(self, value_of: Lookup) -> bool:
        """Whether all tests hold; one of a key that the run does not have holds only for ``!=``."""
        return all(_holds(value_of(key), sign, values) for key, sign, values in self.tests)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it tests."""
        return tuple(key for key, _, _ in self.tests)


def parse_conditions(given: str | Sequence[str] | None, key: str) -> list[Condition]:
    """The conditions in a key of the config, which is None, one condition or a list of them."""
    texts = [] if given is None else [given] if isinstance(given, str) else list(given)
    return [Condition.parse(text, key) for text in texts]


def _holds(value: Any, sign: str, wanted: Sequence[str]) -> bool:
    if sign in _ORDERED:
        number = _number(value)
        limit = _number(wanted[0])
        return number is not None and limit is not None and _ORDERED[sign](number, limit)
    return (sign == "=") == any(same_value(value, text) for text in wanted)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
