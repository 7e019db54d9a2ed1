"""The results of an evaluation, and how they are written and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from mar_accel.data.image_sets import Key
from mar_accel.errors import DataError
from mar_accel.metrics.catalogue import METRIC_KEYS, METRICS
from mar_accel.metrics.fidelity import Fidelity
from mar_accel.utils.csv_files import number_in, read_csv

STEPS_FILE = "ar_steps.csv"
# Images of the sample grid in reports.
SHOWN_IMAGES = 64


@dataclass
class Comparison:
    """Images and the unaccelerated images of the same seed.

    Attributes:
        images, baseline: uint8 [n, C, H, W].
        labels: class labels [n], −1 if unknown.
        keys: sample indices (or paths) [n], by which the images were paired.
        fidelity: similarity of each pair.
    """

    images: Tensor
    baseline: Tensor
    labels: Tensor
    keys: Sequence[Key]
    fidelity: Fidelity


@dataclass
class Evaluation:
    """All results of one evaluation.

    Attributes:
        metrics: numbers by name; see :data:`mar_accel.metrics.catalogue.METRICS`.
        time_shares: share of the time by component, or empty.
        steps: one record per AR step, or empty.
        warnings: sentences that a reader of the numbers must know.
        comparison: comparison with the unaccelerated images, or None.
        samples: the first images uint8 [n, C, H, W] and their labels [n], or None.
        tokens: tokens of the first images [m, L, C], or None.
            Other runs use them to compute their fidelity to this run.
        baseline: config hash or path of the baseline images, or None.
        weights_entry: entry of the checkpoint that the model's weights were taken from, or None.
        divided: whether batches were sampled in parts, because they did not fit into memory.
    """

    metrics: dict[str, float | None]
    time_shares: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    comparison: Comparison | None = None
    samples: tuple[Tensor, Tensor] | None = None
    tokens: Tensor | None = None
    baseline: str | None = None
    weights_entry: str | None = None
    divided: bool = False

    def record(self, **extra: Any) -> dict[str, Any]:
        """The content of metrics.json: first the metrics, then ``extra`` and the rest."""
        numbers = dict.fromkeys(METRIC_KEYS) | self.metrics
        rest = {"baseline": self.baseline, "time_shares": self.time_shares, "warnings": self.warnings}
        return {**numbers, **extra, **rest}


def read_steps(file: Path) -> list[dict[str, float]]:
    """The records of the AR steps that an evaluation has written; empty if there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not file.is_file():
        return []
    try:
        return [
            {key: number_in(value) for key, value in row.items() if value not in ("", "None")}
            for row in read_csv(file)
        ]
    except ValueError as error:
        raise DataError(
            f"{file} has a value that is no finite number; restore or remove the file."
        ) from error


def result_table(title: str, evaluation: Evaluation) -> Table:
    """The measured numbers of one evaluation, as a table for the terminal."""
    table = Table(title=title, show_header=False)
    for metric in METRICS:
        if metric.heading and evaluation.metrics.get(metric.key) is not None:
            table.add_row(metric.heading, metric.text(evaluation.metrics))
    for key, value in evaluation.metrics.items():
        if key not in METRIC_KEYS and value is not None:
            table.add_row(key, f"{value:.4g}")
    for name, share in evaluation.time_shares.items():
        table.add_row(f"  time in {name}", f"{share:.1%}")
    return table
