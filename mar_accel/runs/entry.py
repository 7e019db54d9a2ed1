"""What all commands share: Hydra's entry point, and errors printed as one sentence."""

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

from mar_accel.config.compose import conf_dir, finish_config, register_resolvers, with_part_choices
from mar_accel.config.messages import sentence_for
from mar_accel.inference.processes import config_of_parent
from mar_accel.runs.sweep_job import run_job
from mar_accel.utils.host_memory import keep_freed_memory

USER_ERROR = 2
_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"


def command(
    config_name: str, finished_file: str | None = None
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turn a function of a config into a Hydra command.

    An error that the user can act on is printed as one sentence, without a traceback, and exits with status
    2; with HYDRA_FULL_ERROR=1 its traceback is shown instead. SIGTERM stops a command as Ctrl-C does.

    Args:
        finished_file: the file that only a finished run folder has. The runs of a multirun are then named by
            what they compute, and those that are finished are not made again; None: they are numbered.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        register_resolvers()
        compose_and_run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)

        @functools.wraps(function)
        def main() -> None:
            keep_freed_memory()
            errors = _ErrorReport(config_name)

            @functools.wraps(function)
            def run(config: DictConfig) -> None:
                errors.composing = False
                if finished_file is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
                    run_job(function, config, finished_file, errors.sentence)
                    return
                try:
                    function(finish_config(config))
                except Exception as error:
                    # In a multirun Hydra goes on with the other jobs, and says which one failed.
                    if HydraConfig.get().mode != RunMode.MULTIRUN:
                        errors.exit_for(error)
                    raise

            with _hydra_raises(), _sigterm_stops():
                try:
                    config = config_of_parent()
                    if config is not None:
                        function(config)
                    else:
                        sys.argv[1:] = with_part_choices(sys.argv[1:])
                        compose_and_run(run)()
                except Exception as error:
                    errors.exit_for(error)
                    raise

        return main

    return decorate


class _ErrorReport:
    """Prints errors that the user can act on; leaves the others alone.

    Attributes:
        composing: whether Hydra still reads the command line, so that any error is about that.
    """

    def __init__(self, config_name: str):
        self.config_name = config_name
        self.composing = True
        self.show_traceback = os.environ.get(_SHOW_TRACEBACK) == "1"

    def sentence(self, error: Exception) -> str | None:
        """What to tell the user about an error; None where it is a fault of the program."""
        return sentence_for(error, self.config_name, self.composing)

    def exit_for(self, error: Exception) -> None:
        """Print an error's sentence and exit; returns where there is none."""
        sentence = self.sentence(error)
        if sentence is None or self.show_traceback:
            return
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Hydra prints errors in its own way and exits, unless it is asked for the error itself."""
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
    """SIGTERM leaves as after an uncaught signal, but through all ``finally`` blocks.

    Lightning only takes note of SIGTERM while it predicts; it calls the handler that it finds as well.
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
