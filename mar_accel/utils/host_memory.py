"""Memory of the machine: its size, and what the allocator keeps of it."""

from __future__ import annotations

import ctypes
import os
import platform

# Constants from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# The largest threshold that mallopt accepts (an int).
_NEVER = 2**31 - 1
_USERS_CHOICE = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def physical_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory() -> bool:
    """Let the allocator keep freed memory for later tensors; returns whether it does.

    By default, glibc returns every block above 32 MiB to the system at once.
    The activations of a batch are such blocks.
    Then the kernel has to map and zero new pages for each layer.
    This costs more than an activation function.
    Other allocators (macOS, musl, a preloaded one) and the user's own settings are not changed.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD"):
        return False
    if any(name in os.environ for name in _USERS_CHOICE):
        return False
    libc = ctypes.CDLL(None)
    # mallopt returns 1 on success.
    return libc.mallopt(_M_MMAP_MAX, 0) == 1 and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER) == 1


def give_back_freed_memory() -> None:
    """Return unused memory to the system, so that the process size shows the memory in use."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
