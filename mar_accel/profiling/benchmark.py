"""A benchmark: variants timed in interleaved rounds, with a record after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mar_accel.config.settings import Settings
from mar_accel.inference.session import check_device
from mar_accel.inference.trainer import on_one_device
from mar_accel.profiling.benchmark_result import HEADINGS, Timing, compare, timing_cells
from mar_accel.profiling.benchmark_variants import Variant, build_variants, compose_variants, select_rows
from mar_accel.profiling.estimate import announce
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.profiling.interleaved import Measured, measure_interleaved
from mar_accel.profiling.speed import gemm_peak
from mar_accel.runs.record import prepare_output_dir, run_record, write_json
from mar_accel.utils import markdown

RECORD_FILE = "benchmark.json"
TABLE_FILE = "benchmark.md"
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def benchmark(settings: Settings, overrides: Sequence[str] = ()) -> list[Timing]:
    """Time all variants in interleaved rounds in this process.

    Args:
        settings: of the whole benchmark.
        overrides: overrides that hold for every variant.

    Raises:
        MarAccelError: the config cannot be run; nothing has been written then.
    """
    check_device(settings.trainer.accelerator)
    rows = select_rows(settings.benchmark)
    variants = build_variants(rows, compose_variants(rows, overrides), settings.benchmark.autoencoder)
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    return _measure(settings, variants, output_dir)


@dataclass
class _Record:
    """What is known so far, written after every round: a run of hours that is stopped keeps it.

    Attributes:
        settings: of the whole benchmark.
        flops: of each variant.
        peaks: FLOP/s of the matrix product, each time it was measured.
        timings: of each variant, after the last round that counts.
    """

    settings: Settings
    variants: Sequence[Variant]
    flops: Sequence[FlopCount]
    measure_peak: Callable[[], float]
    folder: Path
    peaks: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def update(self, measured: Sequence[Measured]) -> None:
        """Add what each variant's rounds took."""
        # A busy machine is slower than it can be, so the best moment counts.
        self.peaks.append(self.measure_peak())
        names = [variant.name for variant in self.variants]
        steps = [len(variant.session.plan.steps) for variant in self.variants]
        self.timings = compare(names, steps, measured, self.flops, max(self.peaks))
        records = [timing.record() for timing in self.timings]
        write_json(run_record(self.settings, variants=records), self.folder / RECORD_FILE)
        cells = [timing_cells(timing) for timing in self.timings]
        (self.folder / TABLE_FILE).write_text(markdown.table(HEADINGS, cells))


def _measure(settings: Settings, variants: Sequence[Variant], output_dir: Path) -> list[Timing]:
    sessions = [variant.session for variant in variants]
    counts = settings.benchmark
    # A benchmark is of one device: speeds of several add up, and waiting for the slowest blurs the spread.
    trainer = on_one_device(variants[0].settings.trainer)
    device = "cuda" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = _DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rounds, batch = counts.warmup_rounds + counts.rounds, trainer.batch_size
    announce(sessions, [rounds * batch] * len(sessions), trainer)
    # The bar is drawn rarely, for it takes time from what is measured.
    with Progress(*columns, refresh_per_second=1) as progress:
        counting = progress.add_task("counting FLOPs", total=len(variants))
        flops = []
        for session in sessions:
            flops.append(count_flops(session.model.config, session.sampler, session.cache))
            progress.advance(counting)
        timing = progress.add_task("timing", total=rounds * len(variants))
        record = _Record(settings, variants, flops, lambda: gemm_peak(device, dtype), output_dir)
        record.peaks.append(record.measure_peak())
        measure_interleaved(
            variants[0].settings.with_(trainer=trainer),
            sessions,
            counts.rounds,
            output_dir,
            on_batch=lambda: progress.advance(timing),
            on_round=record.update,
            warmup_rounds=counts.warmup_rounds,
        )
    return record.timings
