"""What the allocator does with memory that CPU tensors free: it keeps it for the next ones."""

from __future__ import annotations

import ctypes
import os
import platform

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# The largest threshold that mallopt takes, an int.
_NEVER = 2**31 - 1
_USERS_CHOICE = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let the allocator keep what tensors free, for the next ones; returns whether it does.

    glibc returns every block above 32 MiB to the system at once. The activations of a batch are such blocks:
    each layer would get its pages anew, zeroed by the kernel one by one, which costs more than an activation
    function. Other allocators (macOS, musl, a preloaded one) and a user's own settings are left alone.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD"):
        return False
    if any(name in os.environ for name in _USERS_CHOICE):
        return False
    libc = ctypes.CDLL(None)
    # 1 is success.
    return libc.mallopt(_M_MMAP_MAX, 0) == 1 and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER) == 1


def give_back_freed_memory() -> None:
    """Return what is kept but not in use to the system, so that the process's size says what it uses."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
