"""What Hydra runs with every config, here or in a process of a launcher."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from mar_accel.config.settings import Settings
from mar_accel.runs.gpus import take_gpu
from mar_accel.utils.host_memory import keep_freed_memory
from mar_accel.utils.threads import set_default_threads

Command = Callable[[Settings], float | None]


class Errors(Protocol):
    """Says errors that a user can fix in one sentence."""

    composing: bool

    def sentence(self, error: Exception) -> str | None:
        """The message for the user; None if the error is a bug of the program."""

    def exit_for(self, error: Exception) -> None:
        """Print the message of an error and exit; return if there is no message."""

    def say_of_run(self, error: Exception, number: int) -> None:
        """Print the message of the error that has ended a run of a sweep, if there is one."""


class Task:
    """Runs a command with a composed config.

    Launchers send it to other processes. It is found again there by the name of the command: under
    ``python -m`` the command itself is part of ``__main__``, which another process does not have.

    Args:
        name: name of the command.
        function: the command.
        finished_file: see :func:`mar_accel.runs.entry.command`.
        read: reads a composed config.
        errors: what is said about errors.
    """

    def __init__(
        self,
        name: str,
        function: Command,
        finished_file: str | None,
        read: Callable[[Any], Settings],
        errors: Errors,
    ):
        self.name, self.function, self.finished_file = name, function, finished_file
        self.read, self.errors = read, errors
        # Hydra names its jobs by the module of what it runs.
        self.__module__ = f"mar_accel.{name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return task_of, (self.name,)

    def __call__(self, config: Any) -> float | None:
        self.errors.composing = False
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if in_sweep and self.finished_file is not None:
            # Before torch is imported, which looks for GPUs only once.
            take_gpu(sweep_folder())
            from mar_accel.runs.sweep_job import run_job

            return run_job(self.function, lambda: self.read(config), self.finished_file, self.errors.sentence)
        try:
            return self.function(self.read(config))
        except Exception as error:
            # In a multirun, Hydra continues with the other jobs, and then raises the first error alone.
            if in_sweep:
                self.errors.say_of_run(error, HydraConfig.get().job.num)
            else:
                self.errors.exit_for(error)
            raise


def sweep_folder() -> Path:
    """A folder that the processes of this sweep share."""
    # By the name of the sweep, as its folder of results, whose module imports torch.
    return (
        Path(HydraConfig.get().sweep.dir).absolute() / ".locks" / os.environ.get("MAR_ACCEL_SWEEP", "sweep")
    )


def task_of(name: str) -> Task:
    """The task of a command, in a process that a launcher has started."""
    prepare_process()
    return import_module(f"mar_accel.{name}").main.task()


def prepare_process() -> None:
    """What every process of a command needs, before torch is imported."""
    # Console scripts find classes in the working directory, as `python -m` does.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    set_default_threads()
    keep_freed_memory()
