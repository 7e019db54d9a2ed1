"""Rows: named sets of overrides, which tables and benchmarks compare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.compose import compose_settings
from mar_accel.config.messages import sentence_for
from mar_accel.config.overrides import group_of, key_of
from mar_accel.config.settings import Settings, checked
from mar_accel.errors import ConfigError

# Names stand in tables and pictures.
_LONGEST_NAME = 100
# What a run cannot have for itself; Hydra would not look at it any more, or the run would end elsewhere.
_OF_THE_WHOLE = ("hydra", "sweep", "table", "output_dir", "command")


@dataclass(frozen=True)
class Row:
    """One row: its name and its overrides.

    Attributes:
        name: unique in its table; also the name of its folder.
        overrides: Hydra overrides, such as ``("sampler=gtr", "cache=lazymar")``.
    """

    name: str
    overrides: tuple[str, ...]


def load_rows(path: str | Path, key: str = "table.rows") -> list[Row]:
    """Read the rows of a YAML list of {name, overrides}; the other rows are compared with the first.

    Args:
        path: the file.
        key: config key of the file, for messages.

    Raises:
        ConfigError: the file is missing, is not such a list, or uses a name twice; a row has an unknown key,
            or an override that cannot be read.
    """
    where = f"{key}={path}"
    if not os.path.isfile(path):
        raise ConfigError(f"{where} is not a file; use a YAML list of name and overrides.")
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML's own errors come as several types
        raise ConfigError(f"{where} is not a list of name and overrides; correct the file.") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ConfigError(f"{where} is not a list of name and overrides; correct the file.")
    rows = [_read_row(row, where, number) for number, row in enumerate(content)]
    names = [row.name for row in rows]
    if not rows or len(set(names)) < len(names) or not all(map(_is_plain, names)):
        raise ConfigError(
            f"{where} needs rows with unique names of at most {_LONGEST_NAME} characters without slashes; "
            "rename them."
        )
    return rows


@checked
@dataclass(frozen=True)
class _Entry:
    """A row as it is written in a file."""

    name: str | int | float
    overrides: list[str] | None = None


def _read_row(row: dict[str, Any], where: str, number: int) -> Row:
    """A row of a file; raises ConfigError for other keys or types, and overrides that no run can have."""
    try:
        entry = check_settings(_Entry, row, f"rows[{number}]")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    overrides = tuple(entry.overrides or ())
    for override in overrides:
        own = group_of(override)
        if own in _OF_THE_WHOLE:
            raise ConfigError(
                f"{where}: row {entry.name} overrides {override}, but {own} belongs to the whole command; "
                "set it on the command line."
            )
    try:
        OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(f"{where}: row {entry.name}: {sentence_for(error, '')}") from error
    return Row(str(entry.name), overrides)


def _is_plain(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and "/" not in name and name.isprintable()


def select_rows(
    rows: Sequence[Row], only: Sequence[str] | None, key: str, keep_first: bool = False
) -> list[Row]:
    """Select rows by name, in the order of the names.

    Args:
        rows: all rows.
        only: names of the rows. None: all rows.
        key: config key of these names, for messages.
        keep_first: always begin with the first row, which the others are compared with.

    Raises:
        ConfigError: a name is unknown, or no row is left.
    """
    known = {row.name: row for row in rows}
    if only is not None and not only:
        raise ConfigError(f"{key} is empty; name at least one row, or set it to null for all.")
    names = list(known) if only is None else [*list(known)[: int(keep_first)], *only]
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: {name} is not defined; choose one of {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]


def compose_rows(command: str, rows: Sequence[Row], shared: Sequence[str], own_node: str) -> list[Settings]:
    """The settings of each row.

    All rows are composed before the first one runs, so that typos are found at once.

    Args:
        command: the command whose config the rows change.
        rows: the rows; their own overrides take precedence.
        shared: overrides that apply to all rows. Those of the run as a whole are left out.
        own_node: node of the run as a whole, such as "table".

    Raises:
        ConfigError: an override is wrong.
    """
    shared = shared_overrides(shared, own_node)
    return [compose_settings(command, merge_overrides(shared, row.overrides)) for row in rows]


def shared_overrides(overrides: Sequence[str], own_node: str) -> list[str]:
    """The overrides of a command line that apply to all rows, without those of the run as a whole."""
    whole = (f"{own_node}.", "output_dir", "hydra.")
    return [override for override in overrides if not key_of(override).startswith(whole)]


def merge_overrides(*lists: Sequence[str]) -> list[str]:
    """Merge lists of overrides; the last override of each key counts."""
    merged: dict[str, str] = {}
    for override in (override for overrides in lists for override in overrides):
        key = key_of(override)
        merged.pop(key, None)
        merged[key] = override
    return list(merged.values())
