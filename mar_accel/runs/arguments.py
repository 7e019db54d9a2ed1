"""Arguments in another order, without a key or without Hydra's quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# Flags of Hydra whose value is the next argument.
_WITH_VALUE = (
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c"),
    *("--package", "-p", "--info", "-i"),
)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Flags and their values before overrides: Hydra's parser takes no overrides on both sides of a flag.

    Example:
        >>> flags_first(["model=digits", "-m", "seed=0,1"])
        ['-m', 'model=digits', 'seed=0,1']
    """
    flags: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        (flags if argument.startswith("-") or before in _WITH_VALUE else others).append(argument)
    return [*flags, *others]


def folders_as_override(arguments: Sequence[str], key: str) -> list[str]:
    """Turn folders among the arguments into one override at the end; the other arguments stay as they are.

    A folder is an argument without ``=``, or one that exists.

    Args:
        arguments: arguments of the command line.
        key: key of the list of folders.

    Example:
        >>> folders_as_override(["runs/a", "runs/b", "seed=1"], "collect.folders")
        ['seed=1', "collect.folders=['runs/a','runs/b']"]
    """
    folders, others = [], []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_override = "=" in argument and not Path(argument).is_dir()
        if argument.startswith(("-", "~", "+")) or is_override or before in _WITH_VALUE:
            others.append(argument)
        else:
            folders.append(argument)
    if not folders:
        return others
    # Not before the flags, which come first.
    return [*others, f"{key}=[{','.join(map(_quoted, folders))}]"]


def _quoted(folder: str) -> str:
    """A path in Hydra's quotes, whose own quotes, interpolations and last backslashes are only signs."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), folder)
    return "'" + escaped.replace("${", "\\${") + "'"


# Keys whose values are conditions or overrides themselves: sweep.skip=cache=none seed>0.
_QUOTED = ("sweep.only", "sweep.skip", "collect.baseline", "report.baseline")


def with_quotes(arguments: Sequence[str]) -> list[str]:
    """Put conditions in quotes, which Hydra needs in addition to those of the shell; lists have their own.

    Example:
        >>> with_quotes(["sweep.skip=cache=none seed>0"])
        ["sweep.skip='cache=none seed>0'"]
    """
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        plain = key in _QUOTED and value not in ("", "null") and value[0] not in "['\""
        quoted.append(f"{key}='{value}'" if plain else argument)
    return quoted
