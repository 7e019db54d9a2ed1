"""Time variants against each other: ``python -m mar_accel.benchmark model=mar_base model.weights=random``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mar_accel.errors import ConfigError
from mar_accel.generate import check_device
from mar_accel.profiling.benchmark_result import HEADINGS, Timing, compare, timing_cells, timing_table
from mar_accel.profiling.benchmark_variants import Variant, build_variants, compose_variants, select_rows
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.profiling.interleaved import Measured, measure_interleaved
from mar_accel.profiling.speed import gemm_peak
from mar_accel.runs.entry import command
from mar_accel.runs.record import prepare_output_dir, run_record, write_json
from mar_accel.utils import markdown

RECORD_FILE = "benchmark.json"
TABLE_FILE = "benchmark.md"
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def benchmark(config: DictConfig, overrides: Sequence[str] = ()) -> list[Timing]:
    """Time all variants in interleaved rounds in this process.

    Args:
        config: composed as ``conf/benchmark.yaml``.
        overrides: overrides that hold for every variant.

    Raises:
        MarAccelError: the config cannot be run; nothing has been written then.
    """
    check_device(config.trainer.accelerator)
    _check_rounds(config)
    rows = select_rows(config.benchmark.variants, config.benchmark.only)
    variants = build_variants(rows, compose_variants(rows, overrides), config.benchmark.autoencoder)
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    return _measure(config, variants, output_dir)


def _check_rounds(config: DictConfig) -> None:
    rounds, warmup_rounds = config.benchmark.rounds, config.benchmark.warmup_rounds
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"benchmark.rounds={rounds} measures nothing; give at least 1.")
    if not isinstance(warmup_rounds, int) or warmup_rounds < 0:
        raise ConfigError(f"benchmark.warmup_rounds={warmup_rounds} is no number of rounds; give 0 or more.")


@dataclass
class _Record:
    """What is known so far, written after every round: a run of hours that is stopped keeps it.

    Attributes:
        config: of the whole benchmark.
        flops: of each variant.
        peaks: FLOP/s of the matrix product, each time it was measured.
        timings: of each variant, after the last round that counts.
    """

    config: DictConfig
    variants: Sequence[Variant]
    flops: Sequence[FlopCount]
    measure_peak: Callable[[], float]
    folder: Path
    peaks: list[float] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def update(self, measured: Sequence[Measured]) -> None:
        """Take over what each variant's rounds took."""
        # A busy machine is slower than it can be, so the best moment counts.
        self.peaks.append(self.measure_peak())
        names = [variant.name for variant in self.variants]
        steps = [len(variant.module.plan.steps) for variant in self.variants]
        self.timings = compare(names, steps, measured, self.flops, max(self.peaks))
        records = [timing.record() for timing in self.timings]
        write_json(run_record(self.config, variants=records), self.folder / RECORD_FILE)
        cells = [timing_cells(timing) for timing in self.timings]
        (self.folder / TABLE_FILE).write_text(markdown.table(HEADINGS, cells))


def _measure(config: DictConfig, variants: Sequence[Variant], output_dir: Path) -> list[Timing]:
    modules = [variant.module for variant in variants]
    first, counts = variants[0].config, config.benchmark
    # A benchmark is of one device: speeds of several add up, and waiting for the slowest blurs the spread.
    first.trainer.devices, first.trainer.strategy = 1, "auto"
    device = "cuda" if first.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = _DTYPES.get(str(first.trainer.precision).split("-")[0], torch.float32)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The bar is drawn rarely, for it takes time from what is measured.
    with Progress(*columns, refresh_per_second=1) as progress:
        counting = progress.add_task("counting FLOPs", total=len(variants))
        flops = []
        for module in modules:
            flops.append(count_flops(module.model.config, module.sampler, module.cache))
            progress.advance(counting)
        timing = progress.add_task("timing", total=(counts.warmup_rounds + counts.rounds) * len(variants))
        record = _Record(config, variants, flops, lambda: gemm_peak(device, dtype), output_dir)
        record.peaks.append(record.measure_peak())
        measure_interleaved(
            first,
            modules,
            counts.rounds,
            output_dir,
            on_batch=lambda: progress.advance(timing),
            on_round=record.update,
            warmup_rounds=counts.warmup_rounds,
        )
    return record.timings


def _show(config: DictConfig, timings: Sequence[Timing]) -> None:
    title = (
        f"{config.model.name}, batch {config.trainer.batch_size}, guidance {config.sampler.guidance_scale}"
    )
    console = Console()
    console.width = max(console.width, 120)
    console.print(timing_table(title, timings))
    included = "with" if config.benchmark.autoencoder else "without"
    console.print(
        f"Medians of {config.benchmark.rounds} interleaved rounds, warm, {included} the autoencoder; ratio: "
        f"time of {timings[0].name} over this one's. Peak: {timings[0].peak_flops / 1e9:.4g} GFLOP/s "
        f"({config.trainer.accelerator}, {config.trainer.precision}, {torch.get_num_threads()} threads).\n"
        f"Everything: {Path(config.output_dir).absolute() / RECORD_FILE}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@command("benchmark")
def main(config: DictConfig) -> None:
    _show(config, benchmark(config, HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
