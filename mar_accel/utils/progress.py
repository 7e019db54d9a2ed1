"""Progress on the terminal for long work; short work shows nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich import get_console
from rich.progress import Progress

from mar_accel.utils.ranks import is_first_process

T = TypeVar("T")

# Work shorter than this gets no bar, since it would only flicker.
SECONDS_WITHOUT_BAR = 1.0
SECONDS_BETWEEN_LINES = 30.0


def shows_bars() -> bool:
    """Whether bars can be drawn; if not, as in a log file, lines are printed."""
    console = get_console()
    return console.is_terminal or console.is_jupyter


class PlainLines:
    """Prints a line with count, rate and time left every half a minute, for logs without a terminal.

    Args:
        description: text before the numbers.
        total: number of items.
        unit: name of the items.
        completed: items that were there at the start; they do not count for the rate.

    Example:
        >>> lines = PlainLines("sampling", 500, "images")
        >>> lines.update(120)  # after 30 seconds or more
        sampling: 120 of 500 images, 3.21 images/s, 0:01:58 left
    """

    def __init__(self, description: str, total: int, unit: str, completed: int = 0):
        self.description, self.total, self.unit = description, total, unit
        self._before, self._start = completed, time.monotonic()
        self._printed_at = self._start

    def update(self, completed: int) -> None:
        """Print a line if the last one is half a minute old."""
        now = time.monotonic()
        if now - self._printed_at < SECONDS_BETWEEN_LINES:
            return
        self._printed_at = now
        rate = (completed - self._before) / (now - self._start)
        left = f", {timedelta(seconds=round((self.total - completed) / rate))} left" if rate else ""
        numbers = f"{completed} of {self.total} {self.unit}, {rate:.3g} {self.unit}/s{left}"
        print(f"{self.description}: {numbers}", flush=True)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items and show a progress bar after the first second.

    Only the first process shows the bar. It disappears at the end.
    Without a terminal, lines are printed; see :class:`PlainLines`.

    Args:
        items: the items to yield.
        description: text beside the bar.
        total: number of items. None: ``len(items)``.
    """
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    start, task = time.monotonic(), None
    bar = Progress(transient=True, disable=not (is_first_process() and shows_bars()))
    lines = PlainLines(description, total, "steps")
    try:
        for done, item in enumerate(items):
            if is_first_process() and not shows_bars():
                lines.update(done)
            if task is None and time.monotonic() - start > SECONDS_WITHOUT_BAR:
                task = bar.add_task(description, total=total, completed=done)
                bar.start()
                bar.refresh()
            if task is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if task is not None:
            bar.stop()


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show a spinner during work of unknown length; only on a terminal and in the first process."""
    console = get_console()
    if not (console.is_terminal and is_first_process()):
        yield
        return
    with console.status(description):
        yield
