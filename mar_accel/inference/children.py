"""The processes that a run has started for further devices: watched, and ended together with the run."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mar_accel.errors import ExitCode, MarAccelError, ProcessError
from mar_accel.inference.processes import (
    CONFIG_VARIABLE,
    PARENT_VARIABLE,
    REPORTS_VARIABLE,
    TASK_VARIABLE,
    WATCH_PERIOD,
    is_further_process,
)
from mar_accel.inference.stopping import STOP, leave

# Seconds in which the first process notices by itself that another one has ended, as it waits for it.
_NOTICES_IN = 5.0
# Seconds after which it is ended, if it cannot be interrupted.
_STUCK_AFTER = 30.0
# Variables that Lightning sets before it starts processes. If they are still set later, Lightning assumes
# that another launcher has set them.
_LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_OWN_VARIABLES = (CONFIG_VARIABLE, PARENT_VARIABLE, TASK_VARIABLE, REPORTS_VARIABLE)


class Children:
    """The further processes of the current run. There is one, :data:`CHILDREN`.

    Attributes:
        processes: the processes, in the order of their ranks from 1.
        failure: says which one ended, and how, before the run did. None: none so far.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.failure: ProcessError | None = None
        STOP.listeners.append(self.tell)

    def watch(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Watch processes from now on, in a thread."""
        self.processes, self.failure = list(processes), None
        threading.Thread(target=self._watch, name="children-observer", daemon=True).start()

    def wait_until_ready(self, reports: Path) -> None:
        """Wait until all have come as far as this one; raises ProcessError if one fails before."""
        ranks = range(1, len(self.processes) + 1)
        while not all((reports / f"{rank}.ready").exists() for rank in ranks):
            if self.failure is not None:
                raise self.failure
            time.sleep(WATCH_PERIOD / 10)

    def tell(self) -> None:
        """Let all stop after their batch."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def reason_for(self, error: BaseException) -> ProcessError | None:
        """The failure of another process that has caused an error of this one; None if none has."""
        asked_for = isinstance(error, SystemExit) and STOP.by_signal
        if not self.processes or asked_for or isinstance(error, MarAccelError):
            return None
        # The connection to a process breaks before its end is seen.
        until = time.monotonic() + _NOTICES_IN
        while self.failure is None and isinstance(error, RuntimeError) and time.monotonic() < until:
            time.sleep(WATCH_PERIOD / 10)
        return self.failure

    def end(self) -> None:
        """End all. After a request to stop they finish their batches first."""
        ending, self.processes = self.processes, []
        try:
            for process in ending if STOP.requested else ():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait()
        finally:
            for process in ending:
                process.kill()
                process.wait()

    def _watch(self) -> None:
        watched = self.processes
        while watched is self.processes and self.failure is None:
            codes = [process.poll() for process in watched]
            if any(codes):
                self.failure = _failure(codes)
            elif all(code == 0 for code in codes):
                return
            else:
                time.sleep(WATCH_PERIOD)
        if watched is self.processes:
            STOP.request()
            self._interrupt(watched)

    def _interrupt(self, watched: list[subprocess.Popen[bytes]]) -> None:
        """End this process too: after its batch, else by an error, else at once."""
        quiet_since = time.monotonic()
        interrupted = False
        while watched is self.processes:
            if STOP.in_batch:
                quiet_since = time.monotonic()
            quiet = time.monotonic() - quiet_since
            if quiet > _NOTICES_IN and not interrupted:
                interrupted = STOP.by_failure = True
                with suppress(ValueError):
                    _thread.interrupt_main(signal.SIGTERM)
            if quiet > _STUCK_AFTER and self.failure is not None:
                print(f"error: {self.failure}", file=sys.stderr)
                leave(self.failure.exit_code)
            time.sleep(WATCH_PERIOD)


CHILDREN = Children()


@contextmanager
def further_processes(config_file: Path, task: str = "") -> Iterator[None]:
    """A context in which processes started by Lightning run the config in ``config_file``.

    Afterwards they have ended, and the environment is restored, so that the next job of a multirun can start
    its own processes.

    Args:
        config_file: file with the settings.
        task: function that takes them, as "module:function". Empty: the command's own.

    Raises:
        ProcessError: one of the processes has failed. It says which one and why.
    """
    if is_further_process():
        yield
        return
    launched_by_others = "LOCAL_RANK" in os.environ
    before = {name: os.environ.get(name) for name in (*_LAUNCH_VARIABLES, *_OWN_VARIABLES)}
    with tempfile.TemporaryDirectory(prefix="mar_accel_", ignore_cleanup_errors=True) as reports:
        # A process that failed in an earlier run of a sweep has stopped that run, and not this one.
        STOP.reset()
        values = (str(config_file), str(os.getpid()), task, reports)
        os.environ |= dict(zip(_OWN_VARIABLES, values, strict=True))
        try:
            yield
        except BaseException as error:
            failure = CHILDREN.reason_for(error)
            CHILDREN.end()
            if failure is not None:
                raise failure from error
            raise
        finally:
            CHILDREN.processes = []
            if not launched_by_others:
                _leave_group()
            for name in _OWN_VARIABLES if launched_by_others else before:
                _set(name, before[name])


def _leave_group() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _failure(codes: Sequence[int | None]) -> ProcessError:
    """The failure that explains the others: a killed process, else one that says why, else the first."""
    ended = [(rank, code) for rank, code in enumerate(codes, 1) if code]
    reports = {rank: _report(rank) for rank, _ in ended}
    rank, code = min(ended, key=lambda one: (one[1] > 0, reports[one[0]] is None))
    advice = "its images are kept, so run the same command again with resume=true"
    report = reports[rank]
    if code < 0:
        names = {int(number): number.name for number in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        why = ", perhaps because the machine ran out of memory" if -code == signal.SIGKILL else ""
        return ProcessError(f"process {rank} of this run was killed ({name}){why}; {advice}.")
    if code == ExitCode.STOPPED:
        return ProcessError(f"process {rank} of this run was stopped; {advice}.")
    if report is None:
        return ProcessError(
            f"process {rank} of this run ended with status {code}; see its output above.", code
        )
    return ProcessError(f"process {rank} of this run failed: {report}", code)


def report_failure(words: str) -> None:
    """Tell the first process why this one fails. It prints the words, or notes them in a sweep's table."""
    with suppress(OSError):
        file = Path(os.environ[REPORTS_VARIABLE], f"{os.environ['LOCAL_RANK']}.json")
        file.write_text(json.dumps(words))


def _report(rank: int) -> str | None:
    try:
        return str(json.loads(Path(os.environ[REPORTS_VARIABLE], f"{rank}.json").read_text()))
    except (OSError, ValueError, KeyError):
        return None
