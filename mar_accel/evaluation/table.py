"""Tables and pictures over several evaluated configs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mar_accel.data.image_sets import open_images
from mar_accel.errors import MarAccelError
from mar_accel.evaluation.files import labelled_strips
from mar_accel.metrics.catalogue import METRIC_KEYS, METRICS
from mar_accel.profiling.speed import latency_summary, speedup
from mar_accel.utils import markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.images import save_png


@dataclass
class RowResult:
    """An evaluated row.

    Attributes:
        name: name of the row.
        folder: its run folder.
        metrics: content of its metrics.json.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]


def add_timings(results: Sequence[RowResult], latencies: Sequence[Sequence[float]], batch_size: int) -> None:
    """Replace the speed of each row by its interleaved rounds, and add the speedup over the first row.

    Args:
        results: the rows; their metrics are changed in place.
        latencies: seconds per image of each row and round, in each process.
        batch_size: images per process in a round.
    """
    # Other load only slows the machine down, so the largest measured peak is used for all rows.
    peak = max((result.metrics.get("peak_flops") or 0.0 for result in results), default=0.0)
    for result, row_latencies in zip(results, latencies, strict=True):
        summary = latency_summary(row_latencies)
        summary["throughput_img_s"] *= result.metrics.get("num_devices") or 1
        result.metrics |= summary | {"batch_size": batch_size, "peak_flops": peak or None}
        result.metrics |= speedup(latencies[0], row_latencies)
        if result.metrics.get("tflops_per_image"):
            median = statistics.median(row_latencies)
            result.metrics["achieved_flops"] = result.metrics["tflops_per_image"] * 1e12 / median


def table_cells(results: Sequence[RowResult]) -> list[list[str]]:
    """Heading and rows as text; the speedup includes its range over the rounds."""
    columns = [metric for metric in METRICS if metric.column]
    lines = [["", *(metric.column for metric in columns)]]
    for result in results:
        cells = {metric.key: metric.cell(result.metrics) for metric in columns}
        low, high = result.metrics.get("speedup_min"), result.metrics.get("speedup_max")
        if low is not None and high is not None and low != high:
            cells["speedup"] += f" ({low:.2f}–{high:.2f})"
        lines.append([result.name, *cells.values()])
    return lines


def markdown_table(results: Sequence[RowResult]) -> str:
    """The table in GitHub's Markdown."""
    heading, *rows = table_cells(results)
    return markdown.table(heading, rows)


def write_table(results: Sequence[RowResult], output_dir: Path, note: str) -> None:
    """Write ``table.md`` with ``note`` below the table, and ``table.csv`` with all numbers."""
    (output_dir / "table.md").write_text(f"{markdown_table(results)}\n{note}\n")
    rows = [{"name": r.name} | {key: r.metrics.get(key) for key in METRIC_KEYS} for r in results]
    write_csv(rows, output_dir / "table.csv")


def write_strips(results: Sequence[RowResult], count: int, path: Path) -> None:
    """Write a picture with one strip of images per row, all with the same samples."""
    strips = []
    for result in results:
        ratio = result.metrics.get("speedup")
        caption = result.name if ratio is None else f"{result.name}\n{ratio:.2f}x"
        strips.append((caption, open_images(result.folder).first(count)))
    save_png(labelled_strips(strips), path)


class TableError(MarAccelError):
    """Some rows of a table could not be evaluated; the others are finished."""


def show_table(
    results: Sequence[RowResult],
    coefficients: Mapping[str, float],
    failures: Mapping[str, str],
    output_dir: str,
) -> None:
    """Print the table; raises TableError if rows failed."""
    heading, *lines = table_cells(results)
    table = Table(*heading)
    for line in lines:
        table.add_row(*line)
    console = Console()
    # A narrower terminal wraps the lines. They stay readable, whereas truncated cells would not.
    console.width = max(console.width, 150)
    console.print(table)
    for name, value in coefficients.items():
        console.print(f"{name} with the change of FID: {value:.2f}")
    console.print(f"Results: {output_dir}", markup=False, soft_wrap=True)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise TableError(f"{len(failures)} rows failed, the others are finished; {reasons}")
