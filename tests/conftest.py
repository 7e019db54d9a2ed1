"""What tests of several commands need: a model that runs in no time, and a way to run a command."""

from __future__ import annotations

import functools
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_model() -> list[str]:
    """Overrides of a digit model of one block, with random weights, and of a few steps."""
    return [
        "model.weights=random",
        "model.architecture.embed_dim=32",
        "model.architecture.num_heads=2",
        "model.architecture.encoder_depth=1",
        "model.architecture.decoder_depth=1",
        "model.architecture.head_depth=1",
        "model.architecture.head_width=32",
        "sampler.num_iter=4",
        "sampler.num_diffusion_steps=4",
        "callbacks=none",
        "logger=none",
    ]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit status and what it printed."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: ``run_here("generate", "dataset.num_images=4", …)``."""

    def run(name: str, *arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        status = 0
        try:
            import_module(f"mar_accel.{name}").main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            GlobalHydra.instance().clear()
        printed = capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command as a process of its own: ``start(folder, "generate", …)``."""

    def run(cwd: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"mar_accel.{name}", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Whoever runs the tests in the background may have left them to ignore SIGINT, which is inherited.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, cwd=cwd, env=environment, text=True, preexec_fn=heed, **pipes)

    return run


@pytest.fixture
def wandb_records() -> Callable[[Path], list[Any]]:
    """Reads the one offline W&B run below a folder, once its service has written the last record."""

    def read(folder: Path) -> list[Any]:
        (path,) = folder.rglob("run-*.wandb")
        give_up = time.monotonic() + 60
        while True:
            records = list(parse(path))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
            assert time.monotonic() < give_up, f"{path} was not written to its end"
            time.sleep(0.5)

    def parse(path: Path) -> Iterator[Any]:
        from wandb.proto.wandb_internal_pb2 import Record

        # A LevelDB log behind 7 bytes: blocks of 32 KiB, parts with a head of checksum, length and kind.
        content, position, parts = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            left_in_block = 32768 - position % 32768
            if left_in_block < 7:
                position += left_in_block
                continue
            _, length, kind = struct.unpack("<IHB", content[position : position + 7])
            if kind == 0:
                break
            parts += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = Record()
                record.ParseFromString(parts)
                parts = b""
                yield record

    return read
