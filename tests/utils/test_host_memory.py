"""Freed memory stays with the process, in a process of its own: the setting cannot be taken back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of ten buffers of 64 MiB, written and freed in turn, once the allocator has found its places.
_FAULTS = """
import resource
from mar_accel.utils.host_memory import keep_freed_memory
kept = keep_freed_memory()
import torch
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment: str) -> tuple[str, int]:
    settings = ("MALLOC_", "GLIBC_", "LD_PRELOAD")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    command = [sys.executable, "-c", _FAULTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=inherited | environment)
    kept, faults = result.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_buffers_are_reused_instead_of_mapped_anew():
    kept, faults = _faults()
    assert kept == "True"
    # One page of 4 KiB each would be 163,840; two huge pages of 2 MiB would still be hundreds.
    assert faults < 100


def test_the_users_own_setting_is_left_alone():
    assert _faults(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


# Peak bytes of an idle stretch after 256 MB were used and freed.
_PEAK = """
from mar_accel.utils.host_memory import keep_freed_memory
keep_freed_memory()
import torch
from mar_accel.profiling.speed import PeakMemory
idle = PeakMemory("cpu").start().read()
torch.ones(2**26)
used = PeakMemory("cpu").read()
print(used - idle, PeakMemory("cpu").start().read() - idle)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_what_was_freed_is_not_in_the_next_peak():
    result = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    used, after = map(int, result.stdout.split())
    assert used > 250e6 and after < 50e6
