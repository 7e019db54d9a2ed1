"""Hydra creates folders before a command can refuse its settings; what has nothing in it does not stay."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

# Hydra's own sweepers write it before the first job.
_SWEEP_CONFIG = "multirun.yaml"
# Folders that Hydra is about to create in this process, inner ones first.
_new: list[Path] = []
# The names in the folder of the sweep that this process has started, before Hydra writes into it.
_there: dict[Path, set[str]] = {}


class NoteNewFolders(Callback):
    """Notes what exists before Hydra creates ``hydra.run.dir``, or ``hydra.sweep.dir`` with its jobs."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        _note(Path(config.hydra.run.dir).absolute())

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        _note(folder)
        _there[folder] = _names(folder)


def _note(path: Path) -> None:
    _new[:] = [above for above in (path, *path.parents) if not os.path.lexists(above)]


def _names(folder: Path) -> set[str]:
    with suppress(OSError):  # it does not exist, or cannot be read
        return set(os.listdir(folder))
    return set()


@contextmanager
def removed_if_empty() -> Iterator[None]:
    """Remove what Hydra has created for nothing: empty folders, and the config of a failed sweep."""
    _new.clear()
    _there.clear()
    failed = True
    try:
        yield
        failed = False
    finally:
        for sweep, there in _there.items():
            _tidy_sweep(sweep, there, failed)
        for folder in _new:
            _remove_empty(folder)


def _tidy_sweep(sweep: Path, there: set[str], failed: bool) -> None:
    """Remove the empty folders of jobs; of a failed sweep without any results also its config.

    Hydra names them by numbers. Other folders may belong to a sweep of another process.
    """
    for name in filter(str.isdigit, _names(sweep) - there):
        for folder, _, _ in os.walk(sweep / name, topdown=False):
            _remove_empty(Path(folder))
    if failed and _names(sweep) - there == {_SWEEP_CONFIG}:
        with suppress(OSError):
            (sweep / _SWEEP_CONFIG).unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not empty, or it was not created
        folder.rmdir()
