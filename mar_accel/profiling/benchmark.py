"""A benchmark: variants timed in interleaved rounds, with a record after each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from mar_accel.config.rows import compose_rows
from mar_accel.config.settings import Settings
from mar_accel.inference.session import check_device
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.profiling.benchmark_result import HEADINGS, Timing, compare, timing_cells
from mar_accel.profiling.benchmark_variants import Variant, build_variants, rows_of
from mar_accel.profiling.estimate import announce
from mar_accel.profiling.flops import FlopCount, count_mean
from mar_accel.profiling.interleaved import Measured, measure_interleaved
from mar_accel.profiling.speed import machine_peak
from mar_accel.runs.output_dir import prepare_output_dir, require_folder
from mar_accel.runs.record import run_record
from mar_accel.utils import markdown
from mar_accel.utils.json_files import write_json
from mar_accel.utils.progress import Bars

RECORD_FILE = "benchmark.json"
TABLE_FILE = "benchmark.md"


def benchmark(settings: Settings, overrides: Sequence[str] = ()) -> list[Timing]:
    """Time all variants in interleaved rounds in this process.

    Args:
        settings: settings of the whole benchmark.
        overrides: overrides that apply to every variant.

    Returns:
        One timing per variant, in the order of ``benchmark.variants``.

    Raises:
        MarAccelError: the config cannot be run. Nothing is written in this case.
    """
    check_device(settings.trainer.accelerator)
    rows = rows_of(settings.benchmark)
    composed = compose_rows("benchmark", rows, overrides, "benchmark")
    require_folder(Path(settings.output_dir).absolute())
    build_trainer(on_one_device(composed[0].trainer), [], Path(settings.output_dir))
    variants = build_variants(rows, composed, settings.benchmark.autoencoder)
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    return _measure(settings, variants, output_dir)


@dataclass
class _Record:
    """Results so far, written after every round, so that a stopped run keeps them.

    Attributes:
        settings: settings of the whole benchmark.
        flops: FLOPs of each variant.
        measure_peak: measures the FLOP/s of a large matrix product.
        peaks: FLOP/s of each measurement of the matrix product.
        timings: timing of each variant after the last counted round.
    """

    settings: Settings
    variants: Sequence[Variant]
    flops: Sequence[FlopCount]
    measure_peak: Callable[[], float]
    folder: Path
    peaks: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def update(self, measured: Sequence[Measured]) -> None:
        """Write the record and the table of all rounds measured so far."""
        # Other load only slows the machine down, so the fastest measurement counts.
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
    # A benchmark uses one device. With several devices, waiting for the slowest would distort the spread.
    trainer = on_one_device(variants[0].settings.trainer)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rounds, batch = counts.warmup_rounds + counts.rounds, trainer.batch_size
    # Those of a batch, and in every round the same ones.
    num_images = min(batch, variants[0].settings.dataset.num_images)
    announce(sessions, [rounds * batch] * len(sessions), trainer)
    # The bar is redrawn only once per second, since drawing takes time from the measurement.
    with Bars(*columns, refresh_per_second=1) as bars:
        counting = bars.add("counting FLOPs", len(variants), "variants")
        flops = []
        for session in sessions:
            plans = session.plans.counted(num_images)
            flops.append(count_mean(session.model.config, session.sampler, session.cache, plans))
            counting.advance()
        timing = bars.add("timing", rounds * len(variants), "batches")
        record = _Record(settings, variants, flops, lambda: machine_peak(trainer), output_dir)
        record.peaks.append(record.measure_peak())
        measure_interleaved(
            variants[0].settings.with_(trainer=trainer),
            sessions,
            counts.rounds,
            output_dir,
            on_batch=timing.advance,
            on_round=record.update,
            warmup_rounds=counts.warmup_rounds,
        )
    return record.timings
