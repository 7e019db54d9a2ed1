"""CSV files are whole or not there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mar_accel.utils.csv_files import write_csv


def test_rows_under_their_keys(tmp_path: Path) -> None:
    write_csv([{"name": "a, b", "value": 1.5}, {"name": "c", "value": None}], tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "value"], ["a, b", "1.5"], ["c", ""]]


def test_a_failure_leaves_the_older_file(tmp_path: Path) -> None:
    write_csv([{"step": 0}], tmp_path / "table.csv")
    with pytest.raises(ValueError, match="other"):
        write_csv([{"step": 1}, {"other": 2}], tmp_path / "table.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text().split() == ["step", "0"]
