"""The rows of a table: named sets of overrides, read from a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

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


def load_rows(path: str | Path) -> list[Row]:
    """Read the rows of a YAML list of {name, overrides}; the other rows are compared with the first.

    Raises:
        ConfigError: the file is missing, is not such a list, or uses a name twice.
    """
    if not Path(path).is_file():
        raise ConfigError(f"table.rows={path} is not a file; use a YAML list of name and overrides.")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
        rows = [Row(str(row["name"]), tuple(row.get("overrides") or ())) for row in content]  # type: ignore[union-attr,index,call-overload]
    except Exception as error:  # YAML's own errors come as several types
        raise ConfigError(
            f"table.rows={path} is not a list of name and overrides; correct the file."
        ) from error
    names = [row.name for row in rows]
    if not rows or len(set(names)) < len(names) or any("/" in name for name in names):
        raise ConfigError(f"table.rows={path} needs rows with unique names without slashes; rename them.")
    return rows


def choose_rows(rows: Sequence[Row], only: Sequence[str] | None) -> list[Row]:
    """Select rows by name, in the order of the file.

    The first row is always included, since the others are compared with it.

    Args:
        rows: all rows.
        only: names of the rows. None: all rows.

    Raises:
        ConfigError: a name is unknown.
    """
    if only is None:
        return list(rows)
    known = [row.name for row in rows]
    for name in only:
        if name not in known:
            raise ConfigError(
                f"table.only: {name} is not a row of table.rows; choose one of {', '.join(known)}."
            )
    return [row for row in rows if row.name in only or row is rows[0]]


def merge_overrides(*lists: Sequence[str]) -> list[str]:
    """Merge lists of overrides; the last override of each key counts."""
    merged: dict[str, str] = {}
    for override in (override for overrides in lists for override in overrides):
        key = override.split("=", 1)[0].lstrip("+~")
        merged.pop(key, None)
        merged[key] = override
    return list(merged.values())
