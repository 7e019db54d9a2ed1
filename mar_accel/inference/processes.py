"""How a run passes its settings to the processes that Lightning starts for further devices."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings

# Names the file with the resolved config of the run that started this process.
CONFIG_VARIABLE = "MAR_ACCEL_PARENT_CONFIG"
# Names the function that takes these settings, as module:function, where it is not the command itself.
TASK_VARIABLE = "MAR_ACCEL_PARENT_TASK"
# Variables that Lightning sets before it starts processes. If they are still set later, Lightning assumes
# that another launcher has set them.
_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def settings_of_parent() -> Settings | None:
    """The settings to run if Lightning started this process, else None.

    The command line cannot be composed again: the default run folder contains the time.
    In a multirun, the command line also describes many runs.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    return check_settings(Settings, values)


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
    before = {name: os.environ.get(name) for name in (*_LAUNCH_VARIABLES, CONFIG_VARIABLE, TASK_VARIABLE)}
    os.environ[CONFIG_VARIABLE], os.environ[TASK_VARIABLE] = str(config_file), task
    try:
        yield
    except Exception:
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
