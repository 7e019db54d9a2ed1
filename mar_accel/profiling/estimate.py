"""How long sampling will take, from counted FLOPs: said before it starts, where it is long."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mar_accel.config.settings import TrainerSettings
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import count_flops
from mar_accel.profiling.speed import dtype_of, gemm_peak
from mar_accel.utils.ranks import is_first_process

# Share of the matrix product's speed that sampling reaches: 0.6 to 0.7 for MAR-B and larger
# (experiments/wall_clock), a third for the small embedded model.
LARGE_MODEL_SHARE, SMALL_MODEL_SHARE = 0.65, 0.35
LARGE_MODEL = 20_000_000
# Shorter runs need no warning, and the count itself takes a moment.
WORTH_SAYING = 60.0


def estimated_seconds(
    sessions: Sequence[Session], images: Sequence[int], trainer: TrainerSettings, num_processes: int = 1
) -> float:
    """Seconds that sampling will take, within a factor of about two on an idle machine.

    Args:
        sessions: what is sampled. images: how many images of each.
        trainer: accelerator and precision; on a CPU the processes share its cores.
    """
    on_gpu = trainer.accelerator != "cpu" and torch.cuda.is_available()
    dtype = dtype_of(trainer.precision)
    peak = gemm_peak("cuda" if on_gpu else "cpu", dtype) * (num_processes if on_gpu else 1)
    seconds = 0.0
    for session, count in zip(sessions, images, strict=True):
        flops = count_flops(session.model.config, session.sampler, session.cache).total
        size = sum(parameter.numel() for parameter in session.model.parameters())
        share = LARGE_MODEL_SHARE if size >= LARGE_MODEL else SMALL_MODEL_SHARE
        seconds += flops * count / (share * peak)
    return seconds


def announce(
    sessions: Sequence[Session], images: Sequence[int], trainer: TrainerSettings, num_processes: int = 1
) -> None:
    """Print how long sampling will take, where that is more than a minute; the first process alone."""
    # A bound without counting: each of L tokens passes the parameters at least once.
    least = sum(
        2 * count * session.plan.num_tokens * sum(p.numel() for p in session.model.parameters())
        for session, count in zip(sessions, images, strict=True)
    )
    if not is_first_process() or least < 1e11:
        return
    seconds = estimated_seconds(sessions, images, trainer, num_processes)
    if seconds > WORTH_SAYING:
        print(f"about {duration(seconds)} of sampling, judged by counted FLOPs", flush=True)


def duration(seconds: float) -> str:
    """Minutes or hours, to two digits."""
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
