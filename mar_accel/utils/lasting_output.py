"""Standard output that can be lost without costing a result: its reader has gone, or the disk is full."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class _Lasting(io.RawIOBase):
    """A file descriptor whose write errors are ignored, from the first one on."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lost = False

    def write(self, content: Any) -> int:
        if not self._lost:
            try:
                return os.write(self._descriptor, content)
            except OSError:
                self._lost = True
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


@contextmanager
def lasting_output() -> Iterator[None]:
    """A context in which printing never raises.

    What a command prints is only the news of what is on disk. So a closed reader (``| head``), a full disk
    (``> /dev/full``), a closed descriptor (``>&-``) and an encoding without a character cost only the text.
    Streams that somebody has replaced, as a notebook or a test does, stay.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, sys.__stdout__), _lasting(sys.stderr, sys.__stderr__)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:
        # Also keeps the descriptor from being given to the next file that is opened.
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original:
        return stream
    stream.flush()
    buffered = io.BufferedWriter(_Lasting(stream.fileno()))
    return io.TextIOWrapper(
        buffered,
        stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty(),
        write_through=False,
    )
