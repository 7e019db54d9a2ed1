"""How a run passes its settings to the processes that Lightning starts for further devices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.errors import ExitCode

# Names the file with the resolved config of the run that started this process.
CONFIG_VARIABLE = "MAR_ACCEL_PARENT_CONFIG"
# The process that started this one. It is compared, because it may have ended before this one looks.
PARENT_VARIABLE = "MAR_ACCEL_PARENT_PID"
# Seconds between two looks at the parent.
_WATCH_PERIOD = 0.2
# Names the function that takes these settings, as module:function, where it is not the command itself.
TASK_VARIABLE = "MAR_ACCEL_PARENT_TASK"
# Variables that Lightning sets before it starts processes. If they are still set later, Lightning assumes
# that another launcher has set them.
_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def is_further_process() -> bool:
    """Whether Lightning started this process for a run of another process."""
    return CONFIG_VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def settings_of_parent() -> Settings | None:
    """The settings to run if Lightning started this process, else None.

    The command line cannot be composed again: the default run folder contains the time.
    In a multirun, the command line also describes many runs.
    """
    if not is_further_process():
        return None
    values: Any = OmegaConf.to_container(OmegaConf.load(os.environ[CONFIG_VARIABLE]))
    return check_settings(Settings, values)


def end_with_parent() -> None:
    """Let this process end as soon as the process that started it has ended, however that happened.

    A process that waits for a dead one would hang for good, and keep its memory and the folder.
    Does nothing in processes that Lightning did not start.
    """
    if not is_further_process():
        return
    parent = int(os.environ[PARENT_VARIABLE])

    def watch() -> None:
        # A process gets another parent when its own one ends.
        while os.getppid() == parent:
            time.sleep(_WATCH_PERIOD)
        # Nothing is left to tidy up: files are written whole, and other threads may wait for the parent.
        os._exit(ExitCode.STOPPED)

    threading.Thread(target=watch, name="parent-observer", daemon=True).start()


def task_of_parent() -> Callable[[Settings], Any] | None:
    """The function that a process started by Lightning runs; None: that of its command."""
    module, _, name = os.environ.get(TASK_VARIABLE, "").partition(":")
    return getattr(import_module(module), name) if module else None


@contextmanager
def further_processes(config_file: Path, task: str = "") -> Iterator[None]:
    """A context in which processes started by Lightning run the config in ``config_file``.

    Afterwards the environment is restored, so that the next job of a multirun can start its own processes.

    Args:
        config_file: file with the settings.
        task: function that takes them, as "module:function". Empty: the command's own.
    """
    launched_by_others = "LOCAL_RANK" in os.environ
    own_variables = (CONFIG_VARIABLE, PARENT_VARIABLE, TASK_VARIABLE)
    before = {name: os.environ.get(name) for name in (*_LAUNCH_VARIABLES, *own_variables)}
    os.environ |= {CONFIG_VARIABLE: str(config_file), PARENT_VARIABLE: str(os.getpid()), TASK_VARIABLE: task}
    try:
        yield
    except BaseException:
        _end_children()
        raise
    finally:
        if not launched_by_others:
            import torch

            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _end_children() -> None:
    """End the child processes of a run that has failed in this process.

    Lightning watches them and would kill this process when one of them fails.
    This would end the next run of a sweep, or the next row of a table.
    """
    for thread in threading.enumerate():
        children = getattr(thread, "_child_processes", None)
        if thread.name != "child-process-observer" or not children:
            continue
        ending = list(children)
        # The thread that watches the children ends if there are none.
        children.clear()
        for child in ending:
            child.kill()
            child.wait()
