"""Stops a command: SIGTERM, as Slurm sends it before it takes a machine away, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from mar_accel.errors import ExitCode
from mar_accel.inference.processes import is_further_process

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = b"stopping after this batch; once more stops at once\n"


class Stop:
    """The request to stop this process. There is one, :data:`STOP`, as signals are for a whole process.

    A batch is finished and written first. Its images would otherwise be lost, which can be minutes of work.
    Everything else stops at once.

    Attributes:
        requested: whether the process is to stop.
        by_signal: whether the user or the scheduler has asked for it.
        by_failure: whether this process interrupts itself, because another one has failed.
        in_batch: whether a batch is being sampled.
        listeners: called once when a stop is requested, by any thread.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[], object]] = []
        self.reset()

    def reset(self) -> None:
        """Forget a stop of an earlier command of this process."""
        self.requested = self.by_signal = self.by_failure = self.in_batch = False

    def request(self) -> None:
        """Ask for a stop after the batch."""
        if not self.requested:
            self.requested = True
            for listener in self.listeners:
                listener()

    def enter_batch(self) -> None:
        """Begin a batch, or end the process if a stop is requested."""
        # In this order, a request at any moment is seen here or finds that no batch has begun.
        self.in_batch = True
        if self.requested:
            self.in_batch = False
            if is_further_process():
                leave()
            raise SystemExit(int(ExitCode.STOPPED))

    def leave_batch(self) -> None:
        """End a batch, whose images are written."""
        self.in_batch = False


STOP = Stop()


def leave(status: int = ExitCode.STOPPED) -> NoReturn:
    """End this process at once. Files are written whole, so nothing is left to tidy up."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


@contextmanager
def heed_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop the command between two batches, a second signal at once.

    The first process raises SystemExit, so that all ``finally`` blocks run. Python only does this between
    two of its instructions. A process that waits for another one would not notice, so a thread listens too.
    It stops the further processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    further = is_further_process()
    STOP.reset()

    def stop(number: int, frame: Any) -> None:
        if further:
            return  # the thread decides
        if STOP.by_failure:
            raise SystemExit(int(ExitCode.STOPPED))
        again, STOP.by_signal = STOP.by_signal, True
        if again or not STOP.in_batch:
            raise SystemExit(int(ExitCode.STOPPED))
        STOP.request()
        os.write(2, _AGAIN)

    # A shell lets commands in the background ignore Ctrl-C, and so do we.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    with _told_of_signals(lambda number: _tell(number, stop, further)):
        for number in heeded:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, before[number])


def _tell(number: int, handler: Callable[[int, Any], object], further: bool) -> None:
    """What the thread does about a signal, unless another library has taken it over."""
    if signal.getsignal(number) is not handler:
        return
    STOP.request()
    if further and not STOP.in_batch:
        leave()


@contextmanager
def _told_of_signals(tell: Callable[[int], object]) -> Iterator[None]:
    """Call ``tell`` with each signal in a thread, also while the main thread waits outside Python."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while number := reader.recv(1):
            tell(number[0])

    thread = threading.Thread(target=listen, name="signal-listener", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()
