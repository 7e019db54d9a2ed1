"""The table of a report as CSV, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mar_accel.reporting.axes import key_columns, metric_columns
from mar_accel.reporting.points import Point, Points
from mar_accel.sweeps.numbers import metric_of
from mar_accel.sweeps.swept_keys import shown_value
from mar_accel.sweeps.tables import ABOUT_ERRORS
from mar_accel.utils import latex, markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.whole_files import written_whole


def write_tables(points: Points, folder: Path) -> list[Path]:
    """Write ``table.csv`` with all numbers, and ``table.md`` and ``table.tex`` with the usual ones."""
    names, rows = heading(points), [cells(points, point) for point in points.points]
    below = [ABOUT_ERRORS, *points.notes]
    texts = {
        "table.md": markdown.table(names, rows) + "\n" + "\n".join(f"- {note}" for note in below) + "\n",
        "table.tex": latex.table(names, rows, left=1, note="\n".join(below)),
    }
    write_csv([_record(points, point) for point in points.points], folder / "table.csv")
    for name, text in texts.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in ("table.csv", *texts)]


def heading(points: Points) -> list[str]:
    """Titles of the columns that tables show."""
    shown = [column.title for column in metric_columns(points) if column.shown]
    return ["setting", *shown]


def cells(points: Points, point: Point) -> list[str]:
    """The cells of a point: its name, and its numbers with their errors. A missing one is a dash."""
    numbers = [column.key for column in metric_columns(points) if column.shown]
    return [
        point.name,
        *(point.numbers[key].text(metric_of(key)) if key in point.numbers else "–" for key in numbers),
    ]


def _record(points: Points, point: Point) -> dict[str, Any]:
    record: dict[str, Any] = {"name": point.name}
    for column in key_columns(points):
        if column.key in points.keys:
            value = point.values.get(column.key)
            record[column.key] = None if column.key not in point.values else shown_value(value)
    record["seeds"] = " ".join(map(str, point.seeds))
    for key in points.metrics:
        number = point.numbers.get(key)
        ends = {
            "": "value",
            "_error": "error",
            "_low": "low",
            "_high": "high",
            "_spread": "spread",
        }
        record |= {
            f"{key}{end}": None if number is None else getattr(number, name) for end, name in ends.items()
        }
    record["command"] = point.command
    return record
