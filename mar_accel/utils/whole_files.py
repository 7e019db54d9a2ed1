"""Files that are written completely or not at all, and that survive a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Some network file systems cannot sync a folder; they write names through.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextmanager
def written_whole(path: Path, sync_name: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end it replaces ``path`` atomically.

    The content is on disk before the rename, so no power cut leaves an empty file under the final name.

    Args:
        path: the file to write.
        sync_name: also write the folder to disk. Writers of many files do this once for all of them.

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
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # Without a name, a full disk would be reported for no file in particular.
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if sync_name:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk: new, renamed and removed files."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
