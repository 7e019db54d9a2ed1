"""Defaults for torch's CPU threads: how they wait, and how many there are in a limited container."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from math import ceil
from pathlib import Path

# Number of rounds that a thread of GNU OpenMP (torch's wheels for Linux) spins before it sleeps. The
# library uses this value itself if it has more threads than cores, and 300,000 otherwise. It cannot see
# other processes. So on a busy machine, spinning threads occupy cores that the other threads need.
_SPIN_COUNT = "1000"
# The same for LLVM's and Intel's OpenMP (macOS, conda), in milliseconds. Their default is 200.
_BLOCK_TIME = "1"
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def set_default_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how threads wait, and limit their number to the CPU quota of a container.

    Call this before torch is imported, since OpenMP reads the environment only once.
    Variables set by the user take precedence.
    For waiting these are OMP_WAIT_POLICY, GOMP_SPINCOUNT and KMP_BLOCKTIME.
    For the number these are OMP_NUM_THREADS and MKL_NUM_THREADS.

    The number does not depend on the machine's load.
    Resumed runs and compared speeds should have the same number of threads.
    On a busy machine OMP_NUM_THREADS=1 is fastest.
    Two threads took 1.2 to 1.9 times as long with short spinning.
    They took up to 40 times as long with the library's default.

    Args:
        environment: environment variables; changed in place.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        environment.setdefault("KMP_BLOCKTIME", _BLOCK_TIME)
    quota = cgroup_quota()
    # Only a quota must be passed on, since OpenMP itself knows the usable cores of the process. Without
    # the variable, Lightning divides these cores among the processes of several devices.
    if quota is not None and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & environment.keys():
        threads = max(1, ceil(quota))
        if threads < usable_cores():
            environment["OMP_NUM_THREADS"] = str(threads)


def usable_cores() -> int:
    """Number of cores that the process may run on.

    It respects taskset and the cpuset of a container, but not its CPU quota.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> float | None:
    """CPU quota of the process in cores, such as 1.5; None without a limit.

    Args:
        cgroups: mount point of the control groups.
        own: file that lists the control groups of the process.
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
        # The limits of the parent groups apply too. In a container the path may be that of the host.
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
    # -1 means no limit.
    return quota / period if quota > 0 else None
