"""Progress on the terminal for long work; short work shows nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from rich import get_console
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from mar_accel.utils.ranks import is_first_process

T = TypeVar("T")

# Work shorter than this gets no bar, since it would only flicker.
SECONDS_WITHOUT_BAR = 1.0
SECONDS_BETWEEN_LINES = 30.0

# A column of a bar with its note.
NOTE = "{task.fields[note]}"


def shows_bars(console: Console | None = None) -> bool:
    """Whether bars can be drawn; if not, as in a log file, lines are printed."""
    console = console or get_console()
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

    def update(self, completed: int, note: str = "") -> None:
        """Print a line if the last one is half a minute old, with a note at its end."""
        now = time.monotonic()
        if now - self._printed_at < SECONDS_BETWEEN_LINES:
            return
        self._printed_at = now
        rate = (completed - self._before) / (now - self._start)
        left = f", {timedelta(seconds=round((self.total - completed) / rate))} left" if rate else ""
        numbers = f"{completed} of {self.total} {self.unit}, {rate:.3g} {self.unit}/s{left}"
        print(f"{self.description}: {numbers}{note and ', '}{note}", flush=True)


class Bar:
    """One of several bars; made by :meth:`Bars.add`.

    Attributes:
        completed: what is done.
        note: text that changes, such as a loss. A bar shows it if it has the column ``NOTE``.
    """

    def __init__(self, shown: Progress, task: Any, lines: PlainLines | None, completed: float):
        self._shown, self._task, self._lines = shown, task, lines
        self.completed, self.note = completed, ""

    def update(self, completed: float) -> None:
        """Set what is done. A part of an item moves the bar, and is not counted."""
        self.completed = completed
        # Sums of fractions come out a little below the whole number.
        self._shown.update(self._task, completed=completed + 1e-6, note=self.note)
        if self._lines is not None:
            self._lines.update(int(completed + 1e-6), self.note)

    def advance(self, count: float = 1) -> None:
        """Add to what is done."""
        self.update(self.completed + count)


class Bars:
    """Progress bars on the terminal, one below the other. Without a terminal, each one prints lines.

    Only the first process shows them. See :class:`PlainLines` for the lines.

    Args:
        columns: columns of the bars, as :class:`rich.progress.Progress` takes them.
        settings: other arguments of it, such as ``disable=True``.

    Example:
        >>> with Bars() as bars:
        ...     bar = bars.add("timing", total=3, unit="batches")
        ...     bar.advance()
        ...     bar.completed
        1
    """

    def __init__(self, *columns: ProgressColumn | str, **settings: Any):
        drawn = shows_bars(settings.get("console"))
        hidden = settings.get("disable", False) or not is_first_process()
        self._prints = not (drawn or hidden)
        self._shown = Progress(*columns, **{**settings, "disable": hidden or not drawn})

    def add(self, description: str, total: int, unit: str = "steps", completed: int = 0) -> Bar:
        """A new bar.

        Args:
            description: text beside it.
            total: number of items.
            unit: name of the items.
            completed: items that were there at the start; they do not count for the rate.
        """
        lines = PlainLines(description, total, unit, completed) if self._prints else None
        task = self._shown.add_task(description, total=total, completed=completed, note="")
        return Bar(self._shown, task, lines, completed)

    def start(self) -> None:
        """Begin to draw."""
        self._shown.start()

    def stop(self) -> None:
        """Leave the bars as they are."""
        self._shown.stop()

    def __enter__(self) -> Bars:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def progress(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "steps"
) -> Iterator[T]:
    """Iterate over items and show a progress bar after the first second.

    Only the first process shows the bar. It disappears at the end.
    Without a terminal, lines are printed; see :class:`PlainLines`.

    Args:
        items: the items to yield.
        description: text beside the bar.
        total: number of items. None: ``len(items)``.
        unit: name of the items in a log.
    """
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    start, task = time.monotonic(), None
    bar = Progress(transient=True, disable=not (is_first_process() and shows_bars()))
    lines = PlainLines(description, total, unit)
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
