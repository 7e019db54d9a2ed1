"""Processes of a DataLoader, when the command is told to stop."""

from __future__ import annotations

import signal


def leave_stopping_to_the_training(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a process of a DataLoader; its ``worker_init_fn``.

    A terminal and Slurm send them to all processes of a command. Without the process that loads, the training
    ends in an error instead of stopping. The training ends these processes itself, and one whose training was
    killed notices it within seconds.

    Args:
        worker: number of the process, which is not used.

    Example:
        >>> DataLoader(data, num_workers=2, worker_init_fn=leave_stopping_to_the_training)  # doctest: +SKIP
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
