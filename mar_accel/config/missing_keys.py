"""Overrides of keys that a config does not have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException

from mar_accel.config.overrides import key_of

_MISSING_KEY = re.compile(r"Could not (?:override|delete)(?: from config\.)? '([^']+)'")
_MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def missing_key(error: BaseException) -> str | None:
    """The key that a config does not have, if this is what an error of Hydra says; else None."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for number, cause in enumerate(chain):
        found = _MISSING_KEY.search(str(cause))
        if isinstance(cause, ConfigCompositionException) and found:
            # The key is there, if one below it was refused: cache.token={unknown: 1}.
            inside = [getattr(below, "full_key", None) or "" for below in chain[number:]]
            return None if any(key.startswith(f"{found[1]}.") for key in inside) else found[1]
    return None


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep."""
    return any(argument in _MULTIRUN for argument in arguments)


def left_to_combinations(arguments: Sequence[str], error: BaseException) -> list[str] | None:
    """A command line whose sweep decides in every combination whether it has a key.

    Hydra composes a sweep's own config from the defaults and the overrides without a comma. It refuses
    ``-m cache=none,lazymar cache.token.ratios=0.1``, since the default cache has no such key.

    Args:
        arguments: the command line.
        error: the error of Hydra.

    Returns:
        The command line with this one value as a sweep; None if this is not the error.
    """
    key = missing_key(error)
    for number, argument in enumerate(arguments):
        value = argument.partition("=")[2]
        of_jobs = key is not None and not key.startswith(("hydra", "sweep"))
        if of_jobs and key_of(argument) == key and value:
            # Twice the same value is a sweep for Hydra, whatever the value is; a grid takes it once.
            swept = f"{argument.partition('=')[0]}={value},{value}"
            return [*arguments[:number], swept, *arguments[number + 1 :]]
    return None
