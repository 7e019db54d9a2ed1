"""Entry point of all commands: Hydra, typed settings, and errors printed as one sentence."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mar_accel import __version__
from mar_accel.config.compose import conf_dir, group_choices, read_settings, register_resolvers
from mar_accel.config.messages import sentence_for
from mar_accel.config.settings import Settings, foreign_key
from mar_accel.errors import ConfigError
from mar_accel.inference.processes import settings_of_parent, task_of_parent
from mar_accel.utils.host_memory import keep_freed_memory
from mar_accel.utils.threads import set_default_threads

USER_ERROR = 2
_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"

Command = Callable[[Settings], float | None]


def command(config_name: str, finished_file: str | None = None) -> Callable[[Command], Callable[[], Any]]:
    """Turn a function of settings into a Hydra command.

    An error that the user can fix is printed as one sentence, and the exit status is 2.
    With HYDRA_FULL_ERROR=1 its traceback is shown instead.
    SIGTERM stops a command like Ctrl-C.
    The return value of the function is passed to an optimising sweeper.

    Args:
        config_name: name of the primary config.
        finished_file: a file that only the folder of a finished run contains.
            Runs of a multirun are then named by their identity, and finished ones are skipped.
            None: runs of a multirun are numbered.
    """

    def decorate(function: Command) -> Callable[[], Any]:
        register_resolvers()
        compose_and_run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)

        @functools.wraps(function)
        def main() -> Any:
            if sys.argv[1:] in (["--version"], ["-V"]):
                print(f"mar_accel {__version__}")
                return None
            _find_own_modules()
            set_default_threads()
            keep_freed_memory()
            errors = _ErrorReport(config_name)

            @functools.wraps(function)
            def run(config: DictConfig) -> float | None:
                errors.composing = False
                if finished_file is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
                    from mar_accel.runs.sweep_job import run_job

                    return run_job(function, lambda: _read(config), finished_file, errors.sentence)
                try:
                    return function(_read(config))
                except Exception as error:
                    # In a multirun, Hydra continues with the other jobs and reports which one failed.
                    if HydraConfig.get().mode != RunMode.MULTIRUN:
                        errors.exit_for(error)
                    raise

            with _hydra_raises(), _sigterm_stops():
                try:
                    settings = settings_of_parent()
                    if settings is not None:
                        return (task_of_parent() or function)(settings)
                    sys.argv[1:] = group_choices(sys.argv[1:])
                    return compose_and_run(run)()
                except Exception as error:
                    errors.exit_for(error)
                    raise

        return main

    return decorate


def _read(config: DictConfig) -> Settings:
    """The settings of a job; raises ConfigError for overrides of keys of another command."""
    for override in HydraConfig.get().overrides.task:
        foreign = foreign_key(override.lstrip("+~").partition("=")[0], config.command)
        if foreign:
            raise ConfigError(foreign)
    return read_settings(config)


def _find_own_modules() -> None:
    """Let console scripts find classes in the working directory, as ``python -m`` does."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


class _ErrorReport:
    """Prints errors that the user can fix, and ignores all others.

    Attributes:
        composing: whether Hydra is still reading the command line. Any error is then about it.
    """

    def __init__(self, config_name: str):
        self.config_name = config_name
        self.composing = True
        self.show_traceback = os.environ.get(_SHOW_TRACEBACK) == "1"

    def sentence(self, error: Exception) -> str | None:
        """The message for the user; None if the error is a bug of the program."""
        return sentence_for(error, self.config_name, self.composing)

    def exit_for(self, error: Exception) -> None:
        """Print the message of an error and exit; return if there is no message."""
        sentence = self.sentence(error)
        if sentence is None or self.show_traceback:
            return
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Make Hydra raise errors, instead of printing them in its own format and exiting."""
    before = os.environ.get(_SHOW_TRACEBACK)
    os.environ[_SHOW_TRACEBACK] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SHOW_TRACEBACK]
        else:
            os.environ[_SHOW_TRACEBACK] = before


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Let SIGTERM exit with the status of an uncaught signal, but run all ``finally`` blocks.

    During prediction, Lightning only records SIGTERM; it also calls the existing handler.
    """

    def stop(signal_number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + signal_number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
