"""Estimates the sampling time from counted FLOPs, and prints it before a long run."""

from __future__ import annotations

from collections.abc import Sequence

from mar_accel.config.settings import TrainerSettings
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import count_mean
from mar_accel.profiling.speed import machine_peak, sampling_device
from mar_accel.utils.ranks import is_first_process

# Speed of sampling relative to a large matrix product: 0.6 to 0.7 for MAR-B and larger models
# (experiments/wall_clock), about a third for the small embedded model.
LARGE_MODEL_SHARE, SMALL_MODEL_SHARE = 0.65, 0.35
LARGE_MODEL = 20_000_000
MASKS_COUNTED = 16
# Shorter estimates, in seconds, are not printed.
SHORTEST_ANNOUNCED = 60.0


def estimated_seconds(
    sessions: Sequence[Session], images: Sequence[int], trainer: TrainerSettings, num_processes: int = 1
) -> float:
    """Estimate the sampling time in seconds, accurate to a factor of about two on an idle machine.

    Args:
        sessions: models with their samplers and caches.
        images: number of images of each session.
        trainer: gives accelerator and precision.
        num_processes: number of processes. On a CPU, they share its cores.
    """
    peak = machine_peak(trainer) * (1 if sampling_device(trainer) == "cpu" else num_processes)
    seconds = 0.0
    for session, count in zip(sessions, images, strict=True):
        # Of images with different masks, a few tell enough.
        plans = session.plans.counted(min(count, MASKS_COUNTED))
        flops = count_mean(session.model.config, session.sampler, session.cache, plans).total
        size = sum(parameter.numel() for parameter in session.model.parameters())
        share = LARGE_MODEL_SHARE if size >= LARGE_MODEL else SMALL_MODEL_SHARE
        seconds += flops * count / (share * peak)
    return seconds


def announce(
    sessions: Sequence[Session], images: Sequence[int], trainer: TrainerSettings, num_processes: int = 1
) -> None:
    """Print the estimate in the first process, if it exceeds one minute. Arguments as above."""
    # Counting takes a moment. This lower bound shows that a short run needs no count.
    least = sum(
        2 * count * session.plan.num_tokens * sum(p.numel() for p in session.model.parameters())
        for session, count in zip(sessions, images, strict=True)
    )
    if not is_first_process() or least < 1e11:
        return
    seconds = estimated_seconds(sessions, images, trainer, num_processes)
    if seconds > SHORTEST_ANNOUNCED:
        print(f"about {duration(seconds)} of sampling, judged by counted FLOPs", flush=True)


def duration(seconds: float) -> str:
    """Minutes or hours, to two digits."""
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
