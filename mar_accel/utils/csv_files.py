"""Write tables as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mar_accel.utils.whole_files import written_whole


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
