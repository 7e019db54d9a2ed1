"""Folders that a command writes into: whether it can, before anything is computed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mar_accel.errors import ConfigError


def require_folder(output_dir: Path, key: str = "output_dir") -> None:
    """Raise ConfigError if a path is a file, or inside one; nothing is created, unlike below."""
    there = next(path for path in (output_dir, *output_dir.parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        raise _is_file(output_dir, key)


def _is_file(output_dir: Path, key: str) -> ConfigError:
    return ConfigError(f"{key}={output_dir} is a file, or inside one; choose a folder.")


def check_output_dir(output_dir: Path, key: str) -> None:
    """Raise ConfigError if a folder cannot be written; what is created for the check is removed."""
    new = [folder for folder in (output_dir, *output_dir.parents) if not os.path.exists(folder)]
    try:
        prepare_output_dir(output_dir, key)
    finally:
        for folder in new:
            with suppress(OSError):  # it was not created, or another process uses it
                folder.rmdir()


def prepare_output_dir(output_dir: Path, key: str = "output_dir") -> Path:
    """Create a folder and check that it can be written; raises ConfigError if not.

    Args:
        output_dir: the folder.
        key: config key of the folder, for messages.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _is_file(output_dir, key) from error
    except OSError as error:
        raise ConfigError(
            f"{key}={output_dir} cannot be written ({error.strerror}); choose a folder with write permission."
        ) from error
    return output_dir
