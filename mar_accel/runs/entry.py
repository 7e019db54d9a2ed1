"""Entry point of all commands: Hydra, typed settings, and errors printed as one sentence."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mar_accel import __version__
from mar_accel.config.compose import conf_dir, group_choices, read_settings, register_resolvers
from mar_accel.config.messages import sentence_for
from mar_accel.config.settings import Settings, foreign_key
from mar_accel.errors import ConfigError, ExitCode
from mar_accel.inference.processes import (
    end_with_parent,
    is_further_process,
    settings_of_parent,
    task_of_parent,
)
from mar_accel.utils.host_memory import keep_freed_memory
from mar_accel.utils.threads import set_default_threads

_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"

Command = Callable[[Settings], float | None]


def command(config_name: str, finished_file: str | None = None) -> Callable[[Command], Callable[[], Any]]:
    """Turn a function of settings into a Hydra command.

    An error that the user can fix is printed as one sentence; :class:`mar_accel.errors.ExitCode` has the
    exit status.
    With HYDRA_FULL_ERROR=1 its traceback is shown instead.
    SIGTERM and Ctrl-C stop a command; its exit status then asks for the same command again.
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

            with _hydra_raises(), _signals_stop():
                try:
                    end_with_parent()
                    settings = settings_of_parent()
                    if settings is not None:
                        (task_of_parent() or function)(settings)
                        # The threads of torch's process group sometimes abort while Python ends, which
                        # would end the whole run. Files are whole, so nothing is left to tidy up.
                        sys.stdout.flush()
                        sys.stderr.flush()
                        os._exit(0)
                    _check_config_folders(sys.argv[1:])
                    sys.argv[1:] = group_choices(sys.argv[1:])
                    return compose_and_run(run)()
                except BrokenPipeError:
                    # The reader of the output has gone, as with `--help | head`.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    if not errors.composing:
                        raise
                    return None
                except Exception as error:
                    errors.exit_for(error)
                    raise

        return main

    return decorate


def _read(config: DictConfig) -> Settings:
    """The settings of a job; raises ConfigError for overrides of ``command`` or of another command's keys."""
    overrides = HydraConfig.get().overrides
    if {"hydra.run.dir", "output_dir"} <= {
        item.partition("=")[0] for item in [*overrides.hydra, *overrides.task]
    }:
        raise ConfigError("hydra.run.dir and output_dir both name the run folder; give only one of them.")
    for override in overrides.task:
        key = override.lstrip("+~").partition("=")[0]
        if key == "command":
            raise ConfigError(
                f"command cannot be changed; start mar_accel.{override.partition('=')[2]} itself."
            )
        foreign = foreign_key(key, config.command)
        if foreign:
            raise ConfigError(foreign)
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file" and not Path(source.path).is_dir():
            raise ConfigError(f"hydra.searchpath has {source.path}, which is not a folder; correct the path.")
    return read_settings(config)


def _check_config_folders(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a folder of configs that does not exist.

    Hydra would only say that something in it is unknown.
    """
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd", "--config-path", "-cp"):
            continue
        value = value if equals else "".join(arguments[number + 1 : number + 2])
        # A relative --config-path is relative to the command's own file.
        known = flag in ("--config-path", "-cp") and not Path(value).is_absolute()
        if not known and not Path(value).is_dir():
            raise ConfigError(f"{flag}={value} is not a folder; correct the path.")


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
        raise SystemExit(int(getattr(error, "exit_code", ExitCode.REFUSED))) from None


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
def _signals_stop() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop a command like an error, so that all ``finally`` blocks run.

    Images are written whole, and the same command goes on after them. Further processes end at once: in a
    distributed operation they could not run anything, and the first process ends when one of them does.
    """

    def stop(signal_number: int, frame: Any) -> NoReturn:
        raise SystemExit(int(ExitCode.STOPPED))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.SIG_DFL if is_further_process() else stop
    signals = (signal.SIGTERM, signal.SIGINT)
    # A shell lets commands in the background ignore Ctrl-C, and so do we.
    before = {number: signal.getsignal(number) for number in signals}
    heeded = [number for number in signals if before[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
