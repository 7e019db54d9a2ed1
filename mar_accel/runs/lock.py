"""The lock of a run folder: one run at a time, from its claim to its record."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from mar_accel.errors import ConfigError
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.utils.ranks import is_first_process

LOCK_FILE = ".lock"


class RunLock:
    """Keeps other runs out of a run folder.

    The lock is filelock's, which sweeps use too. It is the system's own lock (``flock``), so it ends with its
    process however that ends, and a stale one cannot stay. The empty file stays: removing it would let two
    processes lock different files of the same name.

    Example:
        >>> with RunLock(output_dir) as lock:
        ...     check_everything()
        ...     lock.take()  # creates the folder
    """

    def __init__(self, output_dir: Path):
        self.output_dir = output_dir
        self._lock = FileLock(output_dir / LOCK_FILE)

    def take(self) -> None:
        """Create the folder and lock it; only the first process does this.

        Raises:
            ConfigError: the folder cannot be written, or another run is using it.
        """
        if not is_first_process():
            return
        prepare_output_dir(self.output_dir)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"output_dir={self.output_dir} is in use by another run; wait until it ends, or choose "
                "another folder."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"output_dir={self.output_dir} cannot be locked ({error.strerror}); choose a folder on a "
                "file system with locks."
            ) from error

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
