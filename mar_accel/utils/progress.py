"""A bar on the terminal for what takes long; nothing for what is done in an instant."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich import get_console
from rich.progress import Progress

from mar_accel.utils.ranks import is_first_process

T = TypeVar("T")

# A bar that appears and is gone again is only a flicker.
SECONDS_WITHOUT_BAR = 1.0


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar after the first second; shown by the first process alone, and gone at the end.

    Args:
        total: how many there are; None: ``len(items)``.
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
    """A sign of life for work whose end cannot be told; on a terminal alone, by the first process."""
    console = get_console()
    if not (console.is_terminal and is_first_process()):
        yield
        return
    with console.status(description):
        yield
