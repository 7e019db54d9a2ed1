"""A second name for a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system has no links.

    Args:
        source: the file; FileNotFoundError if it is gone.
        target: the new name, in a folder that is created if it does not exist.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
