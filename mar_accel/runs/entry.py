"""Entry point of all commands: Hydra, typed settings, and errors printed as one sentence."""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mar_accel import __version__
from mar_accel.config.compose import check_choices, group_choices
from mar_accel.config.door import read_settings
from mar_accel.config.hydra_context import conf_dir, register_resolvers
from mar_accel.config.messages import sentence_for
from mar_accel.config.missing_keys import is_multirun, left_to_combinations
from mar_accel.config.overrides import key_of, value_of
from mar_accel.config.settings import Settings, SweepSettings, foreign_key
from mar_accel.config.swept_values import refuse_impossible_sweep
from mar_accel.errors import ConfigError, ExitCode
from mar_accel.inference.children import report_failure
from mar_accel.inference.processes import (
    WATCH_PERIOD,
    end_with_parent,
    is_further_process,
    settings_of_parent,
    task_of_parent,
)
from mar_accel.inference.started_by import join_launch, refuse_sweeps
from mar_accel.inference.stopping import heed_signals, leave
from mar_accel.runs.arguments import flags_first, folders_as_override, with_quotes
from mar_accel.runs.new_folders import removed_if_empty
from mar_accel.runs.task import Command, Errors, Task, prepare_process
from mar_accel.utils.lasting_output import lasting_output

_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"
# Marks an error whose message a run of a sweep has printed.
_SAID = "said_by_its_run"


def command(
    config_name: str, finished_file: str | None = None, folders: str | None = None
) -> Callable[[Command], Callable[[], Any]]:
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
        folders: key of a list of folders, which are given without the key.
    """

    def decorate(function: Command) -> Callable[[], Any]:
        register_resolvers()
        compose_and_run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)

        def task() -> Task:
            return Task(config_name, function, finished_file, _read_and_join, _ErrorReport(config_name))

        @functools.wraps(function)
        def main() -> Any:
            if sys.argv[1:] in (["--version"], ["-V"]):
                print(f"mar_accel {__version__}")
                return None
            prepare_process()
            run = task()
            errors = run.errors
            with lasting_output(), _hydra_raises(), heed_signals(), removed_if_empty():
                try:
                    if is_further_process():
                        _run_for_parent(function, errors)
                    refuse_sweeps(sys.argv[1:])
                    _check_config_folders(sys.argv[1:])
                    sys.argv[1:] = flags_first(sys.argv[1:])
                    if folders is not None:
                        sys.argv[1:] = folders_as_override(sys.argv[1:], folders)
                    sys.argv[1:] = group_choices(with_quotes(sys.argv[1:]))
                    if is_multirun(sys.argv[1:]):
                        # Runs that are named may be a search's, which lists no values.
                        refuse_impossible_sweep(sys.argv[1:], limited=finished_file is None)
                    return _composed_and_run(compose_and_run(run), errors)
                except Exception as error:
                    errors.exit_for(error)
                    raise

        main.task = task  # type: ignore[attr-defined]  # launchers find it in their processes
        return main

    return decorate


def _run_for_parent(function: Command, errors: Errors) -> NoReturn:
    """The whole life of a process that a run has started for a further device."""
    end_with_parent()
    status = ExitCode.DONE
    try:
        errors.composing = False
        (task_of_parent() or function)(settings_of_parent())
    except SystemExit as stop:
        status = ExitCode(int(stop.code or 0))
    except Exception as error:
        sentence = errors.sentence(error)
        status = getattr(error, "exit_code", ExitCode.REFUSED if sentence else ExitCode.FAULT)
        report_failure(sentence or f"{type(error).__name__}: {error}")
        if sentence is None:
            # A broken connection is no news if it broke because the parent has ended.
            time.sleep(3 * WATCH_PERIOD)
            traceback.print_exc()
    # The threads of torch's process group sometimes abort while Python ends, which would end the whole run.
    leave(status)


def _composed_and_run(compose_and_run: Callable[[], Any], errors: Errors) -> Any:
    """Run Hydra. In a sweep, a key that the default members lack is left to the combinations."""
    while True:
        try:
            return compose_and_run()
        except Exception as error:
            if not (errors.composing and is_multirun(sys.argv[1:])):
                raise
            arguments = left_to_combinations(sys.argv[1:], error)
            if arguments is None:
                raise
        sys.argv[1:] = arguments


def _read(config: DictConfig) -> Settings:
    """The settings of a job; raises ConfigError for overrides of ``command`` or of another command's keys."""
    if HydraConfig.get().job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true changes the working directory, so relative paths in the config would name "
            "other files; leave it out, every run writes into its own folder."
        )
    # As they were given: a value may refer to another key.
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides, resolve=False)
    if {"hydra.run.dir", "output_dir"} <= {key_of(item) for item in [*given["hydra"], *given["task"]]}:
        raise ConfigError("hydra.run.dir and output_dir both name the run folder; give only one of them.")
    check_choices(given["task"])
    for override in given["task"]:
        key = key_of(override)
        if key == "command":
            raise ConfigError(f"command cannot be changed; start mar_accel.{value_of(override)} itself.")
        foreign = foreign_key(key, config.command)
        if foreign:
            raise ConfigError(foreign)
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file" and not Path(source.path).is_dir():
            raise ConfigError(f"hydra.searchpath has {source.path}, which is not a folder; correct the path.")
    settings = read_settings(config)
    if HydraConfig.get().mode != RunMode.MULTIRUN and settings.sweep != SweepSettings():
        raise ConfigError("sweep.* only applies to sweeps; add -m, or remove these keys.")
    return settings


def _read_and_join(config: DictConfig) -> Settings:
    """The settings of a job, in agreement with the other processes of torchrun or srun."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        # A launcher of Hydra may have started several tasks for one run, too.
        refuse_sweeps(["-m"])
    return join_launch(_read(config))


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
        if not hasattr(error, _SAID):
            _print_error(sentence)
        raise SystemExit(int(getattr(error, "exit_code", ExitCode.REFUSED))) from None

    def say_of_run(self, error: Exception, number: int) -> None:
        """Print the message of the error that has ended a run of a sweep; it is not printed again."""
        sentence = self.sentence(error)
        if sentence is not None:
            _print_error(f"run {number}: {sentence}")
            setattr(error, _SAID, True)


def _print_error(sentence: str) -> None:
    # A value may have several lines, but a message has one.
    print("error:", "\\n".join(sentence.splitlines()), file=sys.stderr)


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
