"""Time several modules in turn, one batch of each per round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mar_accel.config.settings import DatasetSettings, Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.session import Session
from mar_accel.inference.trainer import build_trainer
from mar_accel.profiling.timer import BatchTimer


@dataclass
class Measured:
    """Time and memory of one module's batches.

    Attributes:
        latencies: seconds per image of each batch.
        processor_seconds: seconds of all processor cores together, per image of each batch.
        peak_memory: largest peak memory of a batch in bytes, of the GPU or else of the process.
    """

    latencies: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_memory: int = 0

    def add(self, latency: float, processor_seconds: float, peak_memory: int) -> None:
        self.latencies.append(latency)
        self.processor_seconds.append(processor_seconds)
        self.peak_memory = max(self.peak_memory, peak_memory)


def measure_interleaved(
    settings: Settings,
    sessions: Sequence[Session],
    rounds: int,
    output_dir: Path,
    on_batch: Callable[[], None] = lambda: None,
    on_round: Callable[[list[Measured]], object] = lambda measured: None,
    warmup_rounds: int = 1,
    datasets: Sequence[DatasetSettings] | None = None,
) -> list[Measured]:
    """Time sessions in turn: one batch of each per round.

    A batch has ``trainer.batch_size`` images per device, or fewer if the dataset is smaller.
    Every session runs in every round, so a change in the machine's speed affects all of them equally.

    Args:
        settings: trainer that all sessions use, and their data set unless each has its own.
        sessions: the sessions to compare.
        rounds: number of counted rounds.
        output_dir: root folder of the trainer.
        on_batch: called after every batch.
        on_round: called after every counted round with the measurements so far.
        warmup_rounds: number of rounds before the counted ones.
        datasets: the data set of each session. None: that of the settings.

    Returns:
        The measurements of each session.
    """
    timer = BatchTimer()
    trainer = build_trainer(settings.trainer, [timer], output_dir)
    size, processes = settings.trainer.batch_size, trainer.world_size
    timed = [
        (
            InferenceModule(session, "its speed is measured"),
            GenerationRequests(dataset, size).limited(1, processes),
        )
        for session, dataset in zip(sessions, datasets or [settings.dataset] * len(sessions), strict=True)
    ]
    measured = [Measured() for _ in timed]
    for round_number in range(warmup_rounds + rounds):
        counts = round_number >= warmup_rounds
        for (module, requests), numbers in zip(timed, measured, strict=True):
            trainer.predict(module, requests, return_predictions=False)
            if counts:
                numbers.add(timer.latencies[-1], timer.processor_seconds[-1], timer.memories[-1])
            on_batch()
        if counts:
            on_round(measured)
    return measured
