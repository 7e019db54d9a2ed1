"""Time variants against each other: ``python -m mar_accel.benchmark model=mar_base model.weights=random``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mar_accel.benchmarking.result import Timing, compare, timing_table
from mar_accel.benchmarking.variants import Variant, build_variants, compose_variants, select_rows
from mar_accel.cli import command
from mar_accel.errors import ConfigError
from mar_accel.evaluation.sampling import interleaved_latencies
from mar_accel.generate import check_device
from mar_accel.metrics.flops import count_flops
from mar_accel.metrics.speed import gemm_peak
from mar_accel.run_record import prepare_output_dir, run_record, write_json

RECORD_FILE = "benchmark.json"
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
    rounds = config.benchmark.rounds
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"benchmark.rounds={rounds} measures nothing; give at least 1.")
    rows = select_rows(config.benchmark.variants, config.benchmark.only)
    variants = build_variants(rows, compose_variants(rows, overrides), config.benchmark.autoencoder)
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    timings = _measure(variants, rounds, output_dir)
    write_json(run_record(config, variants=[timing.record() for timing in timings]), output_dir / RECORD_FILE)
    return timings


def _measure(variants: Sequence[Variant], rounds: int, output_dir: Path) -> list[Timing]:
    modules = [variant.module for variant in variants]
    config = variants[0].config
    # A benchmark is of one device: speeds of several add up, and waiting for the slowest blurs the spread.
    config.trainer.devices, config.trainer.strategy = 1, "auto"
    device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = _DTYPES.get(str(config.trainer.precision).split("-")[0], torch.float32)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The bar is drawn rarely, for it takes time from what is measured.
    with Progress(*columns, refresh_per_second=1) as progress:
        counting = progress.add_task("counting FLOPs", total=len(variants))
        flops = []
        for module in modules:
            flops.append(count_flops(module.model.config, module.sampler, module.cache))
            progress.advance(counting)
        timing = progress.add_task("timing", total=(rounds + 1) * len(variants))
        peak = gemm_peak(device, dtype)
        latencies = interleaved_latencies(
            config, modules, rounds, output_dir, on_batch=lambda: progress.advance(timing)
        )
        # A busy machine is slower than it can be, so the better of two moments counts.
        peak = max(peak, gemm_peak(device, dtype))
    names = [variant.name for variant in variants]
    return compare(names, [len(module.plan.steps) for module in modules], latencies, flops, peak)


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
