"""Defaults of torch's CPU threads: gentle on a busy machine, and never against the user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mar_accel.utils import threads
from mar_accel.utils.threads import cgroup_quota, set_default_threads, usable_cores


@pytest.fixture
def no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cgroup_quota", lambda: None)


@pytest.mark.usefixtures("no_quota")
def test_threads_spin_briefly() -> None:
    environment: dict[str, str] = {}
    set_default_threads(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@pytest.mark.usefixtures("no_quota")
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_the_users_waiting_wins(name: str) -> None:
    environment = {name: "mine"}
    set_default_threads(environment)
    assert environment[name] == "mine"
    assert name != "OMP_WAIT_POLICY" or environment.keys() == {name}


@pytest.mark.parametrize(
    ("quota", "given", "expected"),
    [
        (1.5, {}, "2"),
        (0.2, {}, "1"),
        (8.0, {}, None),
        (64.0, {}, None),
        (None, {}, None),
        (1.0, {"OMP_NUM_THREADS": "5"}, "5"),
        (1.0, {"MKL_NUM_THREADS": "5"}, None),
    ],
)
def test_a_quota_limits_the_number(
    quota: float | None, given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    environment = dict(given)
    set_default_threads(environment)
    assert environment.get("OMP_NUM_THREADS") == expected


def test_usable_cores_follow_the_affinity() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    check = (
        "import os; from mar_accel.utils.threads import usable_cores\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(usable_cores())"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_quota_of_cgroups_2_is_the_smallest_on_the_way(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/jobs/mine\n")
    groups = tmp_path / "groups"
    assert cgroup_quota(groups, own) is None
    _write(groups / "jobs" / "mine" / "cpu.max", "max 100000\n")
    assert cgroup_quota(groups, own) is None
    _write(groups / "jobs" / "cpu.max", "150000 100000\n")
    assert cgroup_quota(groups, own) == 1.5
    _write(groups / "jobs" / "mine" / "cpu.max", "50000 100000\n")
    assert cgroup_quota(groups, own) == 0.5


def test_quota_of_cgroups_1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:memory:/jobs\n4:cpu,cpuacct:/jobs\n")
    folder = tmp_path / "cpu" / "jobs"
    _write(folder / "cpu.cfs_period_us", "100000\n")
    _write(folder / "cpu.cfs_quota_us", "-1\n")
    assert cgroup_quota(tmp_path, own) is None
    _write(folder / "cpu.cfs_quota_us", "200000\n")
    assert cgroup_quota(tmp_path, own) == 2.0


def test_no_quota_where_there_are_no_cgroups(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path, tmp_path / "missing") is None


def test_torch_takes_a_number_set_before_its_import() -> None:
    check = (
        "import os, sys; os.environ.pop('OMP_NUM_THREADS', None); os.environ.pop('MKL_NUM_THREADS', None)\n"
        "from mar_accel.utils import threads\n"
        "assert 'torch' not in sys.modules\n"
        "threads.cgroup_quota, threads.usable_cores = lambda: 1.0, lambda: 8\n"
        "threads.set_default_threads()\n"
        "import torch; print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
