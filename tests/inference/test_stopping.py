"""SIGTERM and Ctrl-C finish the batch; a process that dies ends its run alone, and is named."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mar_accel.data.run_images import image_indices
from mar_accel.errors import ExitCode, ProcessError
from mar_accel.inference import children, stopping
from mar_accel.inference.children import CHILDREN, further_processes, report_failure
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.processes import REPORTS_VARIABLE
from mar_accel.inference.stopping import STOP, heed_signals

NUM_IMAGES, BATCH = 10, 2
FEW = [f"dataset.num_images={NUM_IMAGES}", f"trainer.batch_size={BATCH}"]
EVALUATION = ["reference.augmentations=0", "evaluate.baseline=none", "evaluate.profile=false"]


@pytest.fixture
def in_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Does something while a batch is sampled: ``in_batch(1, action)``."""

    def register(number: int, action: Callable[[], object]) -> None:
        step = InferenceModule.predict_step

        def sample(self: InferenceModule, batch: Any, batch_idx: int) -> Any:
            if batch_idx == number:
                action()
            return step(self, batch, batch_idx)

        monkeypatch.setattr(InferenceModule, "predict_step", sample)

    return register


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_signal_finishes_the_batch(
    command: str,
    number: signal.Signals,
    in_batch: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whoever runs the tests in the background may have left them to ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    in_batch(1, lambda: os.kill(os.getpid(), number))
    more = EVALUATION if command == "evaluate" else []
    arguments = [*tiny_model, *FEW, *more, f"output_dir={tmp_path / 'run'}"]
    try:
        outcome = run_here(command, *arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.status == ExitCode.STOPPED == 75 and "Traceback" not in outcome.stderr
    assert f"stopped: {2 * BATCH} images are in {tmp_path / 'run' / 'images'}" in outcome.stderr
    assert f"{command}.resume=true" in outcome.stderr
    assert image_indices(tmp_path / "run") == list(range(2 * BATCH)), "the batch is written"
    assert not (tmp_path / "run" / "run.json").exists()
    monkeypatch.undo()
    again = run_here(command, *arguments, f"{command}.resume=true")
    assert again.status == ExitCode.DONE, again.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["num_images"] == NUM_IMAGES and record["batch_size"] == BATCH


def test_a_second_signal_stops_at_once(
    in_batch: Callable[..., None], run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    in_batch(1, twice)
    outcome = run_here("generate", *tiny_model, *FEW, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.STOPPED
    assert image_indices(tmp_path / "run") == list(range(BATCH))


def test_a_signal_in_the_last_batch_comes_too_late(
    in_batch: Callable[..., None], run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    in_batch(NUM_IMAGES // BATCH - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = run_here("generate", *tiny_model, *FEW, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.DONE and (tmp_path / "run" / "run.json").exists()


def test_a_stopped_sweep_ends_and_says_how_to_go_on(
    in_batch: Callable[..., None], run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    in_batch(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = run_here("generate", "-m", *tiny_model, *FEW, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == ExitCode.STOPPED
    assert (
        f"stopped in run 0; to continue, repeat the command with hydra.sweep.dir={tmp_path}" in outcome.stderr
    )
    assert not list(tmp_path.glob("*/run.json"))


def test_the_listener_hears_a_signal_while_the_main_thread_waits() -> None:
    """As in a barrier, the main thread does not get to Python's handlers."""
    heard, requested = threading.Event(), threading.Event()
    lock = threading.Lock()
    lock.acquire()

    def listener() -> None:
        requested.set()

    STOP.listeners.append(listener)
    try:
        with heed_signals():
            STOP.in_batch = True

            def send() -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                requested.wait()
                heard.set()
                lock.release()

            threading.Thread(target=send).start()
            lock.acquire()
            assert heard.is_set() and STOP.requested
    finally:
        STOP.listeners.remove(listener)
        STOP.reset()


class _Process:
    """A process that has ended with a code, or runs on until it gets a signal."""

    def __init__(self, code: int | None = None):
        self.returncode = code
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.returncode = int(ExitCode.STOPPED)

    def kill(self) -> None:
        self.returncode = self.returncode if self.returncode is not None else -signal.SIGKILL

    def wait(self) -> None:
        return


ENDS = {
    "killed": (-signal.SIGKILL, None, r"process 1 .* was killed \(SIGKILL\), perhaps because .* memory", 75),
    "crashed": (
        -signal.SIGSEGV,
        None,
        r"process 1 of this run was killed \(SIGSEGV\); its images are kept",
        75,
    ),
    "stopped": (75, None, r"process 1 of this run was stopped; its images are kept", 75),
    "refused": (2, "model.weights is torn.", r"process 1 of this run failed: model\.weights is torn\.", 2),
    "fault": (1, "KeyError: 'x'", r"process 1 of this run failed: KeyError: 'x'", 1),
    "without words": (1, None, r"process 1 of this run ended with status 1; see its output above", 1),
    "unknown code": (41, None, r"process 1 of this run ended with status 41", 1),
}


@pytest.mark.parametrize(("code", "words", "sentence", "status"), ENDS.values(), ids=ENDS.keys())
def test_a_process_that_ends_is_named(
    code: int,
    words: str | None,
    sentence: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    STOP.reset()
    other = _Process()
    with pytest.raises(ProcessError, match=sentence) as raised, further_processes(tmp_path / "config.yaml"):
        if words is not None:
            monkeypatch.setenv("LOCAL_RANK", "1")
            report_failure(words)
            monkeypatch.delenv("LOCAL_RANK")
        CHILDREN.watch([_Process(code), other])  # type: ignore[list-item]
        raise RuntimeError("Connection closed by peer")
    assert raised.value.exit_code == status
    assert other.signals == [signal.SIGTERM] and CHILDREN.processes == []
    assert REPORTS_VARIABLE not in os.environ
    STOP.reset()


def test_a_process_that_ends_while_this_one_samples_stops_it_after_the_batch(tmp_path: Path) -> None:
    STOP.reset()
    with (
        pytest.raises(ProcessError, match="process 1 of this run was killed"),
        further_processes(tmp_path / "c"),
    ):
        STOP.enter_batch()
        CHILDREN.watch([_Process(-signal.SIGKILL)])  # type: ignore[list-item]
        while not STOP.requested:
            time.sleep(0.01)
        STOP.leave_batch()  # the batch is written
        STOP.enter_batch()
    STOP.reset()


def test_a_failed_run_does_not_stop_the_next_one_of_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ProcessError), further_processes(tmp_path / "config.yaml"):
        CHILDREN.watch([_Process(-signal.SIGKILL)])  # type: ignore[list-item]
        raise RuntimeError("Connection closed by peer")
    assert STOP.requested
    with further_processes(tmp_path / "config.yaml"):
        STOP.enter_batch()
        STOP.leave_batch()
    assert not STOP.requested


def test_processes_that_are_waited_for_are_told_to_stop(tmp_path: Path) -> None:
    process = _Process()
    with pytest.raises(SystemExit), further_processes(tmp_path / "config.yaml"):
        CHILDREN.watch([process])  # type: ignore[list-item]
        # As if it had been started after the stop was asked for.
        STOP.requested = True
        raise SystemExit(75)
    assert process.signals == [signal.SIGTERM]
    STOP.reset()


def test_a_first_process_that_hangs_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_NOTICES_IN", 0.1)
    with (
        heed_signals(),
        pytest.raises(ProcessError, match="was killed"),
        further_processes(tmp_path / "config.yaml"),
    ):
        CHILDREN.watch([_Process(-signal.SIGKILL)])  # type: ignore[list-item]
        while True:
            time.sleep(0.05)
    STOP.reset()


def test_own_errors_keep_their_words(tmp_path: Path) -> None:
    STOP.reset()
    with pytest.raises(ValueError, match="my own"), further_processes(tmp_path / "config.yaml"):
        CHILDREN.watch([_Process()])  # type: ignore[list-item]
        raise ValueError("my own")
    STOP.reset()


def test_a_further_process_waits_for_its_batch_and_then_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []

    def leave(status: int = ExitCode.STOPPED) -> None:
        left.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(stopping, "leave", leave)
    monkeypatch.setattr(stopping, "is_further_process", lambda: True)
    STOP.reset()
    STOP.enter_batch()
    STOP.request()
    assert not left
    STOP.leave_batch()
    with pytest.raises(SystemExit):
        STOP.enter_batch()
    assert left == [ExitCode.STOPPED]
    STOP.reset()
