"""Records as JSON, written whole or not at all, and their numbers."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from mar_accel.utils.whole_files import written_whole


def write_json(record: Any, path: Path) -> None:
    """Write a JSON file atomically; numbers that are not finite, which JSON does not have, become null."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(_finite(record), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, int | float) and not _is_finite(value) else value


def with_whole_numbers(value: Any) -> Any:
    """A nested value with whole floats as integers, so that 4.0 equals 4, also as text.

    Example:
        >>> with_whole_numbers({"a": [4.0, 0.5]})
        {'a': [4, 0.5]}
    """
    if isinstance(value, dict):
        return {str(key): with_whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer of hundreds of digits
        return False


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, empty, damaged or has something else.

    Numbers that are not finite are null, as ``write_json`` writes them.
    """
    if not os.path.isfile(file):  # a pipe would never end
        return {}
    try:
        content = _finite(json.loads(file.read_text()))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
