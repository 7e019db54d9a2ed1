"""Fingerprints of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def file_fingerprint(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def size_and_time(value: str | None, below: bool = True) -> list[list[Any]] | None:
    """Names, sizes and modification times of the files that a value names.

    This is a cheap substitute for a digest, for data of many gigabytes.

    Args:
        value: a file or a folder; None, and what does not exist, has no files.
        below: whether files in subfolders of a folder count.
    """
    if value is None:
        return None
    path = Path(value).expanduser()
    files = _files(path, below) if os.path.exists(path) else []
    return [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files] or None


def _files(root: Path, below: bool) -> list[tuple[str, Path]]:
    """Names and paths of a file, or of all files of a folder; text about them (.md) does not count."""
    if root.is_file():
        return [(root.name, root)]
    there = root.rglob("*") if below else root.iterdir()
    files = [file for file in sorted(there) if file.is_file() and file.suffix != ".md"]
    return [(str(file.relative_to(root)), file) for file in files]


def require_regular_file(path: Path) -> None:
    """Raise OSError for a pipe or a device, from which a reader would wait or read for ever."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
