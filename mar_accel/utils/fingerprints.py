"""Fingerprints of files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_fingerprint(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def require_regular_file(path: Path) -> None:
    """Raise OSError for a pipe or a device, from which a reader would wait or read for ever."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")
