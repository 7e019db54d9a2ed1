"""Which GPU a process of a sweep uses, where several processes share a machine."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from filelock import FileLock

# Names the GPUs of the machine that processes of a sweep share, as in CUDA_VISIBLE_DEVICES.
GPUS_VARIABLE = "MAR_ACCEL_GPUS"
# The GPU of this process, which holds for all runs that it makes: torch looks only once.
_OWN_VARIABLE = "MAR_ACCEL_OWN_GPU"
_COUNTER = "processes"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def take_gpu(folder: Path, environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Give this process the next GPU in turn, for all its runs; call it before torch looks for GPUs.

    Args:
        folder: folder that the processes of the sweep share.
        environment: environment variables; changed in place.

    Returns:
        The GPU, or None if the launcher of the sweep gives each job its own ones.
    """
    gpus = [name for name in environment.get(GPUS_VARIABLE, "").split(",") if name]
    owner = f"{os.getpid()}:"
    if not gpus:
        return None
    own = environment.get(_OWN_VARIABLE, "")
    # A variable that another process has set is inherited and means nothing here.
    if not own.startswith(owner):
        own = owner + gpus[_next_number(folder) % len(gpus)]
        environment[_OWN_VARIABLE] = own
    gpu = own.removeprefix(owner)
    environment["CUDA_VISIBLE_DEVICES"] = gpu
    return gpu


def _next_number(folder: Path) -> int:
    """0 for the first process that asks, then 1, 2, …"""
    folder.mkdir(parents=True, exist_ok=True)
    counter = folder / _COUNTER
    with FileLock(folder / f"{_COUNTER}.lock"):
        number = int(counter.read_text()) if counter.is_file() else 0
        counter.write_text(str(number + 1))
    return number
