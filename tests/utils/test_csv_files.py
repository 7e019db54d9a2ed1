"""CSV files are whole or not there."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from mar_accel.errors import DataError
from mar_accel.utils.csv_files import read_csv, write_csv


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


@pytest.mark.parametrize(
    "content", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"a\n\xff\xfe", b'a\n"x', b"a\n" + b"9" * 200_000]
)
def test_a_damaged_table_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"table.csv .*; restore or remove it\.$"):
        read_csv(file)


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(DataError, match="is not a file"):
        read_csv(tmp_path / "table.csv")
