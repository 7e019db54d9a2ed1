"""Timing modules against each other: one batch of each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lightning.pytorch as pl
from omegaconf import DictConfig

from mar_accel.generate import build_requests
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.trainer import build_trainer
from mar_accel.profiling.timer import BatchTimer


@dataclass
class Measured:
    """What the batches of one module took.

    Attributes:
        latencies: seconds per image, one number per batch.
        peak_memory: bytes, the most that a batch needed: of the GPU, or of the process where there is none.
    """

    latencies: list[float] = field(default_factory=list)
    peak_memory: int = 0

    def add(self, latency: float, peak_memory: int) -> None:
        self.latencies.append(latency)
        self.peak_memory = max(self.peak_memory, peak_memory)


def images_per_round(config: DictConfig, trainer: pl.Trainer) -> int:
    """Images that each module samples per round: a batch per device, or all where there are fewer."""
    return min(config.dataset.num_images, config.trainer.batch_size * trainer.world_size)


def measure_interleaved(
    config: DictConfig,
    modules: Sequence[InferenceModule],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
    on_round: Callable[[list[Measured]], object] = lambda measured: None,
    warmup_rounds: int = 1,
) -> list[Measured]:
    """Time modules in turn: one batch of each per round.

    A batch has ``trainer.batch_size`` images per device. As all modules have their turn in a round, a
    machine that grows slower or faster does so for all alike. ``warmup_rounds`` before the first do not
    count. ``on_batch`` is called after every batch, ``on_round`` with what is known after every round that
    counts.
    """
    timer = BatchTimer()
    trainer = build_trainer(config, [timer], output_dir)
    requests = build_requests(config)
    requests = requests.only(range(images_per_round(config, trainer)))
    measured = [Measured() for _ in modules]
    for round_number in range(warmup_rounds + rounds):
        counts = round_number >= warmup_rounds
        for module, numbers in zip(modules, measured, strict=True):
            trainer.predict(module, requests, return_predictions=False)
            if counts:
                numbers.add(timer.latencies[-1], timer.memories[-1])
            on_batch()
        if counts:
            on_round(measured)
    return measured
