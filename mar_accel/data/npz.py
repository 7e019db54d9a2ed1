"""Arrays of an .npz file; their sizes are judged before anything is allocated."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mar_accel.errors import DataError

# Arrays that grow more than this, and to more than so many bytes, hold nothing worth reading.
_LARGEST_RATIO, _SMALL_BYTES = 100, 1 << 28


def load_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Load some arrays of an .npz file, never pickled objects.

    Args:
        path: the file.
        names: arrays to load; those that the file lacks are left out, and others are not read.

    Raises:
        DataError: the file is damaged, or an array is too large for this machine.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _judge_sizes(path, archive, names)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except DataError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise DataError(f"{path} cannot be read as an .npz of arrays; replace the file.") from error


def map_array(path: Path, name: str) -> np.ndarray:
    """An array of a whole .npz file. Without compression, its values are read where they are used."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return np.load(path)[name]
        # The head of a member ends with its name and an extra field, whose lengths it holds.
        start = member.header_offset
        file.seek(start + 26)
        file.seek(start + 30 + sum(struct.unpack("<HH", file.read(4))))
        shape, _, dtype = read_header(file)
        return np.memmap(path, dtype, "r", file.tell(), shape)


def read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype in the head of an open .npy, which is read up to its values."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0
    return (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(member)


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an .npz file that can be opened."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _judge_sizes(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    total = packed = 0
    for name in names:
        if name not in members:
            continue
        header, size = _declared_bytes(archive, members[name])
        if header + size != members[name].file_size:
            raise DataError(f"{path}: {name} is truncated or damaged; replace the file.")
        total, packed = total + size, packed + members[name].compress_size
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total > memory or (total > _SMALL_BYTES and total > _LARGEST_RATIO * packed):
        raise DataError(
            f"{path} unpacks to {total / 1e9:.1f} GB from {packed / 1e9:.3f} GB, and this machine has "
            f"{memory / 1e9:.1f} GB of memory; use a folder of images, or fewer of them."
        )


def _declared_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Bytes of the header of an array, and of its values according to the header."""
    with archive.open(member) as file:
        shape, _, dtype = read_header(file)
        return file.tell(), math.prod(shape) * dtype.itemsize
