"""Starts the processes of further devices, and watches them as our runs need it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from mar_accel.inference.children import CHILDREN
from mar_accel.inference.processes import REPORTS_VARIABLE, is_further_process


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, except for what happens when one of the processes fails.

    Lightning kills the first process then, which would end the other runs of a sweep without a word. Here the
    first process learns which one failed and why. It also waits until all have started: a process that waits
    for another one to join cannot be interrupted.
    """

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any
    ) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        reports = Path(os.environ.get(REPORTS_VARIABLE, ""))
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            CHILDREN.watch(self.procs)
            CHILDREN.wait_until_ready(reports)
        elif is_further_process():
            (reports / f"{os.environ['LOCAL_RANK']}.ready").touch()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def use_own_launcher(trainer: pl.Trainer) -> None:
    """Replace Lightning's launcher of a Trainer by ours; other launchers stay."""
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = Launcher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )
