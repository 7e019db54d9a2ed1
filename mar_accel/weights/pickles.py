"""Files of torch.save: read without running any code, and say so if one asks for it."""

from __future__ import annotations

import argparse
import pickletools
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mar_accel.errors import WeightsError

# How torch names something that it refuses to unpickle.
_REFUSED = re.compile(
    r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|[Uu]nsupported class|unrecognized function"
    r"|allowlisted via `add_safe_globals` but got)\s+(?:<\w[\w ]* ')?([\w.]+)"
)
# Modules whose classes and functions tensors and the allowed classes are stored with.
_HARMLESS = (
    *("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter"),
    *("collections", "_codecs", "argparse"),
)
_PUSHES_TEXT = ("UNICODE", "STRING", "BINSTRING")
# Of a file that is no zip, this many bytes are searched; tensors follow the pickles in it.
_SEARCHED_BYTES = 1 << 24
# torch.save does not compress, so a file that grows more than this was made to fill the memory.
_LARGEST_RATIO = 4


def read_pickle(path: Path, key: str) -> Any:
    """The content of a file of torch.save, on the CPU; large files are memory-mapped.

    Args:
        path: a regular file.
        key: config key that named the file, for messages.

    Raises:
        WeightsError: the file is damaged, or asks for code to be run.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _refuse_bomb(path, key)
        # Training scripts store their command line next to the weights. It is the only class allowed.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except WeightsError:
        raise
    except Exception as error:  # an unpickler on damaged data may raise anything
        wanted = _code_asked_for(path, error)
        if wanted is not None:
            raise WeightsError(
                f"{key}={path} asks for code to be run when it is opened ({wanted}), which is refused; use a "
                "file that holds only tensors."
            ) from error
        raise unreadable(path, key, error) from error


def unreadable(path: Path, key: str, error: Exception) -> WeightsError:
    """The error for a weight file that cannot be read."""
    if isinstance(error, PermissionError):
        return WeightsError(f"{key}={path} cannot be read (permission denied); change its permissions.")
    size = path.stat().st_size
    return WeightsError(
        f"{key}={path} ({size:,} bytes) is damaged, truncated or not a weight file; copy it again."
    )


def _refuse_bomb(path: Path, key: str) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _LARGEST_RATIO * path.stat().st_size:
        raise WeightsError(
            f"{key}={path} unpacks to {unpacked:,} bytes from {path.stat().st_size:,}, which no checkpoint "
            "does; use a file written by torch.save."
        )


def _code_asked_for(path: Path, error: Exception) -> str | None:
    """What a file wants to import or call besides tensors; None if nothing is found."""
    if "TorchScript" in str(error):
        return "a TorchScript program"
    refused = _REFUSED.search(str(error))
    named = refused[1] if refused else None
    try:
        return next((name for stream in _pickles(path) for name in _strangers(stream)), named)
    except Exception:  # a damaged archive
        return named


def _pickles(path: Path) -> Iterator[BinaryIO]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield BytesIO(file.read(_SEARCHED_BYTES))
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".pkl"):
                with archive.open(member) as file:
                    yield BytesIO(file.read(_SEARCHED_BYTES))


def _strangers(stream: BinaryIO) -> Iterator[str]:
    """Names of everything in a stream of pickles that does not belong to tensors; nothing is unpickled."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    kept = 0
    try:
        while stream.read(1):
            stream.seek(-1, 1)
            for opcode, argument, _ in pickletools.genops(stream):
                name = opcode.name
                if any(kind in name for kind in _PUSHES_TEXT):
                    texts.append(str(argument))
                elif name == "MEMOIZE" or "PUT" in name:
                    memo[kept if argument is None else int(str(argument))] = texts[-1] if texts else ""
                    kept += 1
                elif "GET" in name:
                    texts.append(memo.get(int(str(argument)), ""))
                elif name in ("GLOBAL", "INST") or (name == "STACK_GLOBAL" and len(texts) > 1):
                    module, _, what = (
                        str(argument).partition(" ")
                        if name != "STACK_GLOBAL"
                        else (texts[-2], " ", texts[-1])
                    )
                    if module not in _HARMLESS:
                        yield f"{module}.{what}"
                elif name.startswith("EXT"):
                    yield f"an extension with the code {argument}"
    except Exception:  # the pickle ends, or tensors follow it
        return
