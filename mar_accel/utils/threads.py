"""How torch's CPU threads wait for each other, and how many there are where a container is limited."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from math import ceil
from pathlib import Path

# Rounds that a thread of GNU OpenMP (torch's wheels for Linux) spins for the others before it sleeps. The
# library takes this number itself where it has more threads than cores, and 300,000 elsewhere. It cannot see
# other processes: on a busy machine the spinning threads keep from the cores those that they wait for.
_SPIN_COUNT = "1000"
# The same for LLVM's and Intel's OpenMP (macOS, conda), in milliseconds; 200 is their own default.
_BLOCK_TIME = "1"
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def set_default_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Choose how threads wait, and limit their number to a container's quota.

    OpenMP reads the environment once, when torch loads it: call this before torch is imported. Variables that
    the user has set win: OMP_WAIT_POLICY, GOMP_SPINCOUNT and KMP_BLOCKTIME for waiting, OMP_NUM_THREADS and
    MKL_NUM_THREADS for the number.

    The number does not follow the machine's load: a run that is resumed, and speeds that are compared, should
    have the same number of threads. On a busy machine OMP_NUM_THREADS=1 is the fastest choice; with short
    spinning two threads took 1.2 to 1.9 times its time, with the library's own default up to 40 times.

    Args:
        environment: changed in place.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        environment.setdefault("KMP_BLOCKTIME", _BLOCK_TIME)
    quota = cgroup_quota()
    # Only a quota has to be told: OpenMP itself sees the cores that the process may run on. Without the
    # variable, Lightning shares these cores among the processes of several devices.
    if quota is not None and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & environment.keys():
        threads = max(1, ceil(quota))
        if threads < usable_cores():
            environment["OMP_NUM_THREADS"] = str(threads)


def usable_cores() -> int:
    """Cores that the process may run on: taskset and a container's cpuset count, its quota does not."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """Cores' worth of time that Linux grants the process, such as 1.5; None where there is no limit.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that names the process's groups.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, read = cgroups, _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = cgroups / "cpu", _quota_v1
        else:
            continue
        # A group is limited by its ancestors as well. In a container the path may be that of the host.
        group = root / path.lstrip("/")
        quotas += [read(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    # -1 is no limit.
    return quota / period if quota > 0 else None
