"""What a process does that a run has started for a further device: read its settings, end with its parent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.errors import ExitCode

# Names the file with the resolved config of the run that started this process.
CONFIG_VARIABLE = "MAR_ACCEL_PARENT_CONFIG"
# The process that started this one. It is compared, because it may have ended before this one looks.
PARENT_VARIABLE = "MAR_ACCEL_PARENT_PID"
# Folder in which further processes say that they have started, or why they fail.
REPORTS_VARIABLE = "MAR_ACCEL_PARENT_REPORTS"
# Seconds between two looks at another process.
WATCH_PERIOD = 0.2
# Names the function that takes these settings, as module:function, where it is not the command itself.
TASK_VARIABLE = "MAR_ACCEL_PARENT_TASK"


def is_further_process() -> bool:
    """Whether Lightning started this process for a run of another process."""
    return CONFIG_VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def settings_of_parent() -> Settings:
    """The settings of the run that has started this process.

    The command line cannot be composed again: the default run folder contains the time.
    In a multirun, the command line also describes many runs.
    """
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
            time.sleep(WATCH_PERIOD)
        # Nothing is left to tidy up: files are written whole, and other threads may wait for the parent.
        os._exit(ExitCode.STOPPED)

    threading.Thread(target=watch, name="parent-observer", daemon=True).start()


def task_of_parent() -> Callable[[Settings], Any] | None:
    """The function that a process started by Lightning runs; None: that of its command."""
    module, _, name = os.environ.get(TASK_VARIABLE, "").partition(":")
    return getattr(import_module(module), name) if module else None
