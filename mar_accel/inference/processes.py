"""What a run tells the processes that Lightning starts for its further devices."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings

# A file with the resolved config of the run that started this process.
CONFIG_VARIABLE = "MAR_ACCEL_PARENT_CONFIG"
# What Lightning sets before it starts processes, and takes for another launcher's if it finds it again.
_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def settings_of_parent() -> Settings | None:
    """The settings to run if Lightning started this process, else None.

    Composing the command line again would not do: another second gives another default run folder, and in a
    multirun the command line means many runs.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    return check_settings(Settings, values)


@contextmanager
def further_processes(config_file: Path) -> Iterator[None]:
    """Within, processes that Lightning starts run the config in ``config_file``.

    Afterwards this process is as it was, so that the next job of a multirun can start processes of its own.
    """
    launched_by_others = "LOCAL_RANK" in os.environ
    before = {name: os.environ.get(name) for name in (*_LAUNCH_VARIABLES, CONFIG_VARIABLE)}
    os.environ[CONFIG_VARIABLE] = str(config_file)
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
    """End the processes of a run that has failed here, without the one that this function runs in.

    Lightning watches them, and kills this process as well once one of them has failed: the next run of a
    sweep, or row of a table, would die of it.
    """
    for thread in threading.enumerate():
        children = getattr(thread, "_child_processes", None)
        if thread.name != "child-process-observer" or not children:
            continue
        ending = list(children)
        # Without children there is nothing to watch, and the thread ends.
        children.clear()
        for child in ending:
            child.kill()
            child.wait()
