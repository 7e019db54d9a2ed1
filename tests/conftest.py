"""What tests of several commands need: a model that runs in no time, and a way to run a command."""

from __future__ import annotations

import copy
import gc
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none; torch is only imported if there are such tests."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none"))


@pytest.fixture(scope="session", autouse=True)
def frozen_imports() -> None:
    """What is imported stays to the end, so no garbage collection need look at it: a run ends with one."""
    import_module("lightning.pytorch")
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def kept_yaml() -> Iterator[None]:
    """Hydra reads its files again for every config, and that takes a third of the time of thousands."""
    load, kept = OmegaConf.load, dict[tuple[str, int, int], Any]()

    def load_once(file: Any) -> Any:
        if not hasattr(file, "fileno"):
            return load(file)
        status = os.fstat(file.fileno())
        key = (str(file.name), status.st_size, status.st_mtime_ns)
        if key not in kept:
            kept[key] = load(file)
        return copy.deepcopy(kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load_once))
        yield


@pytest.fixture(autouse=True)
def quick_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, except in the long tests, some of which cut the power."""
    if not request.node.get_closest_marker("long"):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session", autouse=True)
def patient_wandb() -> Iterator[None]:
    """W&B gives its service half a minute to start; on a busy machine that takes longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_X_SERVICE_WAIT", "1200")
        patch.setenv("WANDB_INIT_TIMEOUT", "1200")
        yield


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


@pytest.fixture(scope="session")
def tiny_scenes() -> list[str]:
    """Overrides of a text-to-image model of one block, with random weights, and of a few diffusion steps."""
    sizes = {"embed_dim": 32, "num_heads": 2, "head_width": 32}
    sizes |= dict.fromkeys(("encoder_depth", "decoder_depth", "cross_depth", "text_depth", "head_depth"), 1)
    return [
        "model=scenes",
        "model.weights=random",
        *(f"model.architecture.{key}={value}" for key, value in sizes.items()),
        "model.text_encoder.depth=1",
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
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_here(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
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
        # A failed assertion shows the start and end of it only.
        request.node.add_report_section("call", f"mar_accel.{name}", printed.out + printed.err)
        return Outcome(status, printed.out, printed.err)

    return run


def _heed_signals() -> None:
    """Tests in the background, or under nohup, may ignore these signals, and their children inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command as a process group of its own: ``start(folder, "generate", …)``.

    The test waits for it without a deadline. What still runs when the test ends is killed, with all that it
    started, also where the test ended by pytest's deadline.
    """
    started: list[subprocess.Popen[str]] = []

    def run(cwd: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"mar_accel.{name}", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            text=True,
            preexec_fn=_heed_signals,
            start_new_session=True,
            **pipes,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        # The group can outlive the process that was started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool], subprocess.Popen[str]], None]:
    """Waits until something is so; fails if the process that has to bring it about ends before."""

    def wait(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        while not reached():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    return wait


@pytest.fixture
def wandb_records() -> Callable[[Path], list[Any]]:
    """Reads the one offline W&B run below a folder, once its service has written the last record."""

    def read(folder: Path) -> list[Any]:
        (path,) = folder.rglob("run-*.wandb")
        while True:
            records = list(parse(path))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
            time.sleep(0.1)

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
