"""Reads the ``config.json`` of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 1_000_000


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a ``config.json``.

    Raises:
        ValueError: the file is too large, or is not a JSON object.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is a pipe or a device, which may never end")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    return record
