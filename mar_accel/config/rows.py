"""Rows: named sets of overrides, which tables and benchmarks compare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError


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
        ConfigError: the file is missing, is not such a list, or uses a name twice.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"{key}={path} is not a file; use a YAML list of name and overrides.")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
        rows = [Row(str(row["name"]), tuple(row.get("overrides") or ())) for row in content]  # type: ignore[union-attr,index,call-overload]
    except Exception as error:  # YAML's own errors come as several types
        raise ConfigError(f"{key}={path} is not a list of name and overrides; correct the file.") from error
    names = [row.name for row in rows]
    if not rows or len(set(names)) < len(names) or any("/" in name for name in names):
        raise ConfigError(f"{key}={path} needs rows with unique names without slashes; rename them.")
    return rows


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
    return [override for override in overrides if not override.lstrip("+~").startswith(whole)]


def merge_overrides(*lists: Sequence[str]) -> list[str]:
    """Merge lists of overrides; the last override of each key counts."""
    merged: dict[str, str] = {}
    for override in (override for overrides in lists for override in overrides):
        key = override.split("=", 1)[0].lstrip("+~")
        merged.pop(key, None)
        merged[key] = override
    return list(merged.values())
