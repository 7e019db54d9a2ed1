"""Results of a benchmark, as records and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mar_accel.config.settings import Settings
from mar_accel.profiling.flops import FlopCount
from mar_accel.profiling.interleaved import Measured
from mar_accel.profiling.speed import latency_summary, speedup

HEADINGS = (
    "variant",
    "AR steps",
    "s/image",
    "min–max",
    "speedup",
    "min–max",
    "TFLOPs",
    "GFLOP/s",
    "of peak",
    "peak MiB",
)


@dataclass(frozen=True)
class Timing:
    """Measurements of one variant.

    Attributes:
        name: name of the variant.
        num_ar_steps: number of AR steps in its plan.
        seconds_per_image: seconds per image in each round.
        processor_seconds_per_image: seconds of all processor cores together, per image in each round.
        speedup: median over the rounds of the first variant's time divided by this variant's time.
        speedup_min, speedup_max: smallest and largest of these ratios.
        flops: counted FLOPs per image, without the autoencoder.
        peak_memory_bytes: peak memory of the GPU, or of the process if there is no GPU.
        peak_flops: FLOP/s of a large matrix product in the same process.
    """

    name: str
    num_ar_steps: int
    seconds_per_image: tuple[float, ...]
    processor_seconds_per_image: tuple[float, ...]
    speedup: float
    speedup_min: float
    speedup_max: float
    flops: FlopCount
    peak_memory_bytes: int
    peak_flops: float

    @property
    def achieved_flops(self) -> float:
        """Counted FLOPs divided by the median time, in FLOP/s."""
        return self.flops.total / latency_summary(self.seconds_per_image)["latency_s_per_image"]

    @property
    def share_of_peak(self) -> float:
        """Achieved FLOP/s divided by the FLOP/s of the matrix product; 0..1."""
        return self.achieved_flops / self.peak_flops

    def record(self) -> dict[str, Any]:
        """All measurements and derived values, ready for JSON."""
        return {
            **asdict(self),
            **latency_summary(self.seconds_per_image),
            "tflops_per_image": self.flops.total / 1e12,
            "achieved_flops": self.achieved_flops,
            "share_of_peak": self.share_of_peak,
        }


def compare(
    names: Sequence[str],
    num_ar_steps: Sequence[int],
    measured: Sequence[Measured],
    flops: Sequence[FlopCount],
    peak_flops: float,
) -> list[Timing]:
    """Timings of all variants, each compared round by round with the first variant.

    Args:
        names: name of each variant.
        num_ar_steps: number of AR steps of each variant.
        measured: measurements of each variant, with equally many rounds.
        flops: counted FLOPs of each variant.
        peak_flops: FLOP/s of a large matrix product.
    """
    first = measured[0].latencies
    return [
        Timing(
            name,
            steps,
            tuple(numbers.latencies),
            tuple(numbers.processor_seconds),
            flops=count,
            peak_memory_bytes=numbers.peak_memory,
            peak_flops=peak_flops,
            **speedup(first, numbers.latencies),
        )
        for name, steps, numbers, count in zip(names, num_ar_steps, measured, flops, strict=True)
    ]


def timing_table(title: str, timings: Sequence[Timing]) -> Table:
    """The table that the command prints."""
    table = Table(title=title, title_justify="left")
    table.add_column(HEADINGS[0])
    for heading in HEADINGS[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        table.add_row(*timing_cells(timing))
    return table


def timing_cells(timing: Timing) -> tuple[str, ...]:
    """The cells of one table row, one per heading."""
    numbers = timing.seconds_per_image
    return (
        timing.name,
        str(timing.num_ar_steps),
        f"{latency_summary(numbers)['latency_s_per_image']:.4g}",
        f"{min(numbers):.4g}–{max(numbers):.4g}",
        f"{timing.speedup:.2f}×",
        f"{timing.speedup_min:.2f}–{timing.speedup_max:.2f}",
        f"{timing.flops.total / 1e12:.4g}",
        f"{timing.achieved_flops / 1e9:.4g}",
        f"{timing.share_of_peak:.0%}",
        f"{timing.peak_memory_bytes / 2**20:.0f}",
    )


def show_timings(settings: Settings, timings: Sequence[Timing]) -> None:
    """Print the table and the conditions of the measurement."""
    counts, trainer = settings.benchmark, settings.trainer
    guidance = settings.sampler.get("guidance_scale")
    console = Console()
    console.width = max(console.width, 120)
    console.print(
        timing_table(f"{settings.model.name}, batch {trainer.batch_size}, guidance {guidance}", timings)
    )
    included = "with" if counts.autoencoder else "without"
    console.print(
        f"Medians of {counts.rounds} interleaved rounds after warm-up, {included} the autoencoder. "
        f"Speedup: time of {timings[0].name} divided by the time of the variant. "
        f"Peak: a matrix product with {timings[0].peak_flops / 1e9:.4g} GFLOP/s "
        f"({trainer.accelerator}, {trainer.precision}, {torch.get_num_threads()} threads).\n"
        f"Results: {Path(settings.output_dir).absolute()}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
