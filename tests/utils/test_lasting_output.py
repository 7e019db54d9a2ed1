"""Output that nobody reads, or that cannot be written, costs neither results nor exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mar_accel.utils.lasting_output import _lasting, lasting_output

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    original = os.fdopen(writer, "w", encoding="ascii")
    stream = _lasting(original, original)
    print("before × after", file=stream, flush=True)
    assert os.read(reader, 100) == b"before \\xd7 after\n"
    os.close(reader)
    for _ in range(3):
        print("nobody reads this", file=stream, flush=True)
    assert not stream.isatty()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_no_error() -> None:
    with open("/dev/full", "w", encoding="utf-8") as original:
        stream = _lasting(original, original)
        print("x" * 100000, file=stream, flush=True)
        assert stream.fileno() == original.fileno()
        stream.detach()


def test_streams_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    with lasting_output():
        assert sys.stdout is mine
    monkeypatch.setattr(sys, "stdout", None)
    with lasting_output():
        print("nowhere")
    assert sys.stdout is None


OUTPUTS = {
    "reader gone": "| head -c 5",
    "full": "> /dev/full",
    "closed": ">&-",
    "all closed": ">&- 2>&-",
    "full errors": "> /dev/full 2> /dev/full",
}


@pytest.mark.slow
@pytest.mark.parametrize("redirection", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_a_sweep_goes_on_without_its_output(redirection: str, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = " ".join([*tiny_model, "dataset.num_images=2", "seed=0,1", "'hydra.sweep.dir=sweep'"])
    command = f"set -o pipefail; {sys.executable} -m mar_accel.generate -m {arguments} {redirection}"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment)
    assert done.returncode == 0
    assert (
        len(list((tmp_path / "sweep").glob("*/run.json"))) == 2
        and (tmp_path / "sweep" / "sweep.csv").exists()
    )


@pytest.mark.slow
def test_an_error_keeps_its_code_without_output(tiny_model: list[str], tmp_path: Path) -> None:
    command = f"{sys.executable} -m mar_accel.generate sampler=fast > /dev/full 2> /dev/full"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT).returncode == 2
