"""Write tables as CSV files, and read them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mar_accel.errors import DataError
from mar_accel.utils.whole_files import written_whole


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, each with a text for every column.

    Raises:
        DataError: the file does not exist or is damaged.
    """
    # A pipe would never end.
    if not path.is_file():
        raise DataError(f"{path} is not a file that can be read; restore or remove it.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table; restore or remove it.") from error
    # Cells without a column have the key None, and columns without a cell the value None.
    if any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path} has a row with more or fewer cells than its header; restore or remove it.")
    return rows


def number_in(cell: str) -> float:
    """The number in a cell; raises ValueError if it is no number, or not finite."""
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError(f"{cell} is not finite")
    return number


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows to a CSV file, with their keys as the header.

    If the process is killed, no partial file remains under this path.

    Args:
        rows: at least one row; all rows have the same keys.
        path: the file to write.
    """
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
