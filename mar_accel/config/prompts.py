"""Prompts of a config: a list, a file, or a function that makes them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mar_accel.config.check import locate
from mar_accel.errors import ConfigError

KEY, PATH_KEY = "dataset.prompts", "dataset.path"
# Reads the prompts of a text; the second argument is the name of their column or key.
Reader = Callable[[str, str], list[str]]
# Larger files hold something else than prompts.
MAX_BYTES = 200_000_000
# A list of more prompts would fill the memory.
MAX_MADE = 10_000_000


def put_prompts_in(dataset: dict[str, Any]) -> None:
    """Replace the source of prompts by the list of prompts, and fill in the number of images.

    Args:
        dataset: values of the group ``dataset``; those without prompts stay as they are.

    Raises:
        ConfigError: there is no prompt, or the file cannot be read.
    """
    if "prompts" not in dataset:
        return
    per_prompt = dataset.get("num_images_per_prompt", 1)
    source = dataset.get("prompt_source")
    if source is not None:
        images: Any = dataset.get("num_images")
        count = -(-images // per_prompt) if _is_count(images) and _is_count(per_prompt) else 1
        if count > MAX_MADE:
            raise ConfigError(
                f"dataset.num_images={images} needs {count:,} prompts, more than the {MAX_MADE:,} that "
                f"dataset={dataset.get('name')} makes; use fewer images, or more for each prompt."
            )
        made, given = locate("dataset.prompt_source", source)(count), dataset["prompts"]
        # A recorded config has the prompts that were made.
        if given is not None and given != made:
            raise ConfigError(
                f"{KEY} must be null here, because dataset={dataset.get('name')} makes its own prompts; "
                "choose dataset=prompts for others."
            )
        dataset["prompts"] = made
    elif dataset.get("path") is not None:
        if dataset["prompts"] is not None:
            raise ConfigError(f"{KEY} and {PATH_KEY} both name prompts; set one of them to null.")
        _read(dataset, str(dataset["path"]))
    elif dataset.get("name") == "geneval" and dataset.get("metadata") is None:
        raise ConfigError(f"{PATH_KEY} is not set; dataset=geneval needs GenEval's file of metadata.")
    if isinstance(dataset["prompts"], str):
        dataset["prompts"] = [dataset["prompts"]]
    if dataset["prompts"] is None:
        raise ConfigError(f"{KEY} is not set; give a list of prompts, or a file of prompts in {PATH_KEY}.")
    if not isinstance(dataset["prompts"], list):
        raise ConfigError(
            f"{KEY} must be a text or a list of texts, got {json.dumps(dataset['prompts'], default=str)}."
        )
    _check_prompts(dataset["prompts"])
    if dataset["prompts"] == []:
        raise ConfigError(f"{KEY} is empty; give at least one prompt.")
    if dataset.get("num_images") is None:
        # A wrong number of images per prompt is refused with all other values.
        dataset["num_images"] = len(dataset["prompts"]) * (per_prompt if _is_count(per_prompt) else 1)


def _check_prompts(prompts: list[Any]) -> None:
    """Reject texts that no file can hold; other types are rejected with all other values."""
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str) and (not prompt.isascii()) and _is_broken(prompt):
            raise ConfigError(f"{KEY}[{number}] is not valid Unicode; write it in UTF-8.")


def _is_broken(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _read(dataset: dict[str, Any], name: str) -> None:
    """Read a file of prompts. Afterwards the values do not depend on the file."""
    path: Path | str = Path(name).expanduser() if name else "''"
    if not isinstance(path, Path) or not path.is_file():
        raise ConfigError(f"{PATH_KEY}={path} is not a file; use a .txt, .csv or .jsonl file of prompts.")
    column = str(dataset.get("prompt_column", "prompt"))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        geneval = dataset.get("name") == "geneval"
        reader = _records if geneval else _reader_of(path)
        prompts = reader(text, column)
        metadata = _geneval_lines(text) if geneval else None
    except (OSError, ValueError, csv.Error) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"{PATH_KEY}={path} cannot be read: {reason}; use another file.") from error
    if not prompts:
        raise ConfigError(f"{PATH_KEY}={path} has no prompts; use another file.")
    dataset["prompts"], dataset["path"] = prompts, None
    if metadata is not None:
        dataset["metadata"] = metadata


def _reader_of(path: Path) -> Reader:
    """The reader of a file by its suffix; raises ValueError for a suffix that is not known."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(
            f"files of the kind {suffix} are not read; known are {', '.join(filter(None, READERS))}"
        )
    return READERS[suffix]


def _lines(text: str, column: str) -> list[str]:
    """One prompt per line; blank lines are skipped."""
    # Not splitlines(), which also splits at characters inside of a line, such as U+2028.
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


def _rows(text: str, column: str, delimiter: str = ",") -> list[str]:
    """The column of a CSV file with a header."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    names = list(reader.fieldnames or ())
    if names.count(column) != 1:
        what = "more than one column" if column in names else "no column"
        raise ValueError(f"it has {what} {column} (dataset.prompt_column)")
    prompts = []
    for number, row in enumerate(reader, start=1):
        if row[column] is None:
            raise ValueError(f"row {number} has no {column}")
        if None in row:
            raise ValueError(f"row {number} has more cells than the header; commas in a prompt need quotes")
        prompts.append(row[column])
    return prompts


def _records(text: str, column: str) -> list[str]:
    """The key of one JSON object per line."""
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(record, dict) or not isinstance(record.get(column), str):
            raise ValueError(f"line {number} has no text {column} (dataset.prompt_column)")
        prompts.append(record[column])
    return prompts


def _geneval_lines(text: str) -> list[str]:
    """The lines of GenEval's metadata, which have what its scorer reads besides the prompt."""
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = json.loads(line)
        wanted = record.get("include")
        objects = wanted if isinstance(wanted, list) else []
        if not isinstance(record.get("tag"), str) or not objects or not all(map(_is_geneval_object, objects)):
            raise ValueError(
                f"line {number} needs a tag and a list include of objects with class and count, which "
                "GenEval's scorer reads"
            )
    return [line for line in lines if line.strip()]


def _is_geneval_object(wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return False
    return isinstance(wanted.get("class"), str) and _is_count(wanted.get("count"))


READERS: dict[str, Reader] = {
    "": _lines,
    ".txt": _lines,
    ".csv": _rows,
    ".tsv": partial(_rows, delimiter="\t"),
    ".jsonl": _records,
    ".json": _records,
}
