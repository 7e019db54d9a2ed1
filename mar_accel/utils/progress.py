"""Progress on the terminal for long work; short work shows nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich import get_console
from rich.progress import Progress

from mar_accel.utils.ranks import is_first_process

T = TypeVar("T")

# Work shorter than this gets no bar, since it would only flicker.
SECONDS_WITHOUT_BAR = 1.0


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items and show a progress bar after the first second.

    Only the first process shows the bar. It disappears at the end.

    Args:
        items: the items to yield.
        description: text beside the bar.
        total: number of items. None: ``len(items)``.
    """
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    start, task = time.monotonic(), None
    bar = Progress(transient=True, disable=not is_first_process())
    try:
        for done, item in enumerate(items):
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
