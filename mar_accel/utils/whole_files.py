"""Atomic writing: files are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end it replaces ``path`` atomically.

    Example:
        >>> with written_whole(Path("run.json")) as temporary:
        ...     temporary.write_text("{}")
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some libraries create files that only their owner can read.
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        # Without a name, a full disk would be reported for no file in particular.
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
