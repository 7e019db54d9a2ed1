"""Recorded tables: ``table.csv`` of evaluate_table, collect or report, kept without its run folders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mar_accel.config.rows import load_rows
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.errors import ConfigError, DataError
from mar_accel.sweeps.numbers import Number, number_keys, number_over_seeds
from mar_accel.sweeps.swept_keys import GROUPS
from mar_accel.utils.csv_files import number_in, read_csv

TABLE_FILE, ROWS_FILE = "table.csv", "rows.yaml"
# Columns that collect and report add to the numbers.
_NAME, _TEXTS = "name", ("seeds", "command", "folders")
_PARTS = ("error", "low", "high", "spread")


@dataclass(frozen=True)
class RecordedRow:
    """A row of a recorded table.

    Attributes:
        name: its name.
        numbers: its numbers with their errors.
        command: a command that evaluates the same config; empty if its overrides are not recorded.
        values: the swept keys with their values as text.
        seeds: the seeds of its runs.
    """

    name: str
    numbers: Mapping[str, Number]
    command: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


def is_recorded_table(folder: Path) -> bool:
    """Whether a folder has a table's numbers and no run folders."""
    return (folder / TABLE_FILE).is_file() and next(folder.rglob(RECORD_FILE), None) is None


def read_table(folder: Path) -> list[RecordedRow]:
    """The rows of ``table.csv``, with the overrides of ``rows.yaml`` beside it.

    Raises:
        DataError: the file has no names and no swept keys, or a number in it is none.

    Example:
        >>> read_table(Path("experiments/readme_table"))[0].name
        'mar'
    """
    file = folder / TABLE_FILE
    commands = _commands(folder / ROWS_FILE)
    lines = read_csv(file)
    if not lines or not (_NAME in lines[0] or any(map(_is_swept, lines[0]))):
        raise DataError(f"{file} has no rows with a name; use a table that evaluate_table has written.")
    return [_row(line, file, commands) for line in lines]


def _row(line: Mapping[str, Any], file: Path, commands: Mapping[str, str]) -> RecordedRow:
    values = {key: str(value) for key, value in line.items() if _is_swept(key) and value not in (None, "")}
    name = str(line.get(_NAME) or " ".join(f"{key}={value}" for key, value in values.items()))
    others = {k: v for k, v in line.items() if k not in (_NAME, *_TEXTS) and not _is_swept(str(k))}
    try:
        numbers = {key: number_in(value) if value else None for key, value in others.items()}
        seeds = tuple(int(seed) for seed in (line.get("seeds") or "").split())
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: row {name} has a value that is no number; restore the file.") from error
    command = line.get("command") or commands.get(name, "")
    return RecordedRow(name, _numbers(numbers), command, values, seeds)


def _is_swept(key: str) -> bool:
    """Whether a column is a key of the config."""
    return key in GROUPS or "." in key


def _numbers(record: Mapping[str, float | None]) -> dict[str, Number]:
    """Numbers with the errors in columns of their own, else with those that their run has estimated."""
    parts = {f"{key}_{part}" for key in record for part in _PARTS if f"{key}_error" in record}
    found: dict[str, Number | None] = {}
    for key in number_keys([{key: value for key, value in record.items() if key not in parts}]):
        value = record[key]
        if f"{key}_error" in record and value is not None:
            error, low, high, spread = (record.get(f"{key}_{part}") for part in _PARTS)
            found[key] = Number(value, error, low, high, spread)
        else:
            found[key] = number_over_seeds(key, [record])
    return {key: number for key, number in found.items() if number is not None}


def _commands(file: Path) -> dict[str, str]:
    """The command of each row that ``rows.yaml`` describes."""
    try:
        rows = load_rows(file)
    except ConfigError:
        return {}
    return {row.name: shlex.join(["python", "-m", "mar_accel.evaluate", *row.overrides]) for row in rows}
