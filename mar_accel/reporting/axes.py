"""What a chart can show of the points: their numbers and swept keys, as columns with titles and formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mar_accel.metrics.catalogue import DIFFERENCES, SCENE_SCORES, Metric
from mar_accel.metrics.directions import own_direction
from mar_accel.reporting.points import (
    AR_STEPS,
    DIFFUSION_STEPS,
    SYMBOLS,
    Point,
    Points,
    is_number,
)
from mar_accel.sweeps.numbers import Number, metric_of
from mar_accel.sweeps.swept_keys import shown_value

_TITLES = {
    "recognised": "recognised images",
    "fid": "FID",
    "fid_bias": "FID of a perfect generator",
    "kid": "KID × 1000",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "psnr": "PSNR to unaccelerated (dB)",
    "ssim": "SSIM to unaccelerated",
    "lpips": "LPIPS to unaccelerated",
    "latent_mse": "latent MSE to unaccelerated",
    "latency_s_per_image": "seconds per image",
    "seconds_per_image": "seconds per image",
    "seconds": "seconds in all",
    "throughput_img_s": "images per second",
    "images_per_second": "images per second",
    "tflops_per_image": "TFLOPs per image",
    "tflops_encoder": "TFLOPs per image, encoder",
    "tflops_decoder": "TFLOPs per image, decoder",
    "tflops_head": "TFLOPs per image, head",
    "speedup": "speedup over unaccelerated",
    "peak_memory_bytes": "peak memory (MiB)",
    "num_images": "images",
    "achieved_flops": "FLOP/s achieved",
    "peak_flops": "FLOP/s of the machine",
    "recognised_difference": "Δ recognised images to baseline",
    "class_score_difference": "Δ class score to baseline",
    "fid_difference": "Δ FID to baseline",
    **{f"{score.key}_difference": f"Δ {score.heading} to baseline" for score in SCENE_SCORES},
}
_SIGNS = {"higher": 1, "lower": -1, "": 0}
# What a method costs, the most telling first, and what it gives for that.
COSTS = (
    "tflops_per_image",
    "latency_s_per_image",
    "speedup",
    "seconds_per_image",
    "peak_memory_bytes",
)
QUALITIES = (
    *(
        "scenes_overall",
        "fid",
        "recognised",
        "psnr",
        "latent_mse",
        "ssim",
        "lpips",
        "kid",
        "inception_score",
    ),
    *("precision", "recall"),
)
# Numbers about the measurement, which are in the table alone.
_CONDITIONS = (
    "num_images",
    "fidelity_images",
    "batch_size",
    "num_devices",
    "num_processes",
    "fid_bias",
)


@dataclass(frozen=True)
class Column:
    """One column of the points.

    Attributes:
        id: its name in the data of the charts, without signs that a chart would interpret.
        key: the swept key, or the key of the number.
        title: its title with the unit.
        better: 1 if more is better, −1 if less is, 0 if neither.
        format: how a chart writes its values (d3).
        numeric: whether its values are numbers.
        shown: whether the table shows it at first.
    """

    id: str
    key: str
    title: str
    better: int = 0
    format: str = ""
    numeric: bool = True
    shown: bool = True


def metric_columns(points: Points) -> list[Column]:
    """A column for each number."""
    return [_metric_column(f"m{number}", key, points) for number, key in enumerate(points.metrics)]


def _metric_column(identifier: str, key: str, points: Points) -> Column:
    metric = metric_of(key)
    better = _SIGNS[metric.better or own_direction(key, points.directions)]
    share = (metric.column_spec or metric.spec).endswith("%")
    shown = bool(metric.column) and key not in _CONDITIONS
    title = _TITLES.get(key) or metric.heading or key
    return Column(identifier, key, title, better, ".1%" if share else ".3~g", True, shown)


def key_columns(points: Points) -> list[Column]:
    """A column for each swept key, and for the numbers of steps where they differ."""
    columns = []
    for number, key in enumerate(points.keys):
        numeric = all(is_number(point.values[key]) for point in points.points if key in point.values)
        columns.append(Column(f"k{number}", key, _key_title(key), format=".3~g", numeric=numeric))
    for number, key in enumerate((AR_STEPS, DIFFUSION_STEPS)):
        values = {point.counted_steps().get(key) for point in points.points}
        if len(values - {None}) > 1:
            columns.append(Column(f"s{number}", key, key, format=".3~g", shown=False))
    return columns


def _key_title(key: str) -> str:
    """The last part of a key, with the sign that the papers use for it."""
    last, sign = key.rsplit(".", 1)[-1], SYMBOLS.get(key)
    return last if sign is None or len(sign) > 8 or sign == "stages" else f"{last} ({sign})"


def key_value(point: Point, column: Column) -> Any:
    """The value of a swept key, as a number or as text; None if the point does not have it."""
    if column.id.startswith("s"):
        return point.counted_steps().get(column.key)
    if column.key not in point.values:
        return None
    value = point.values[column.key]
    return value if column.numeric else shown_value(value)


def chart_value(number: Number, metric: Metric) -> tuple[float, float | None, float | None]:
    """A number as charts show it, with the ends of its error bar.

    These are its interval where it has one, and else one standard error to both sides.
    """
    low, high = number.low, number.high
    if (low is None or high is None) and number.error is not None:
        low, high = number.value - number.error, number.value + number.error
    scale = metric.scale
    return (
        number.value * scale,
        None if low is None else low * scale,
        None if high is None else high * scale,
    )


def records(points: Points, keys: Sequence[Column], metrics: Sequence[Column]) -> list[dict[str, Any]]:
    """The data of the charts: one record per point."""
    found = []
    for number, point in enumerate(points.points):
        record: dict[str, Any] = {
            "id": number,
            "label": point.label,
            "baseline": point.baseline,
        }
        record |= {column.id: key_value(point, column) for column in keys}
        for column in metrics:
            value = point.numbers.get(column.key)
            if value is None:
                continue
            middle, low, high = chart_value(value, metric_of(column.key))
            record[column.id] = middle
            record |= {f"{column.id}_lo": low, f"{column.id}_hi": high}
        found.append(record)
    return found


def axis_columns(metrics: Sequence[Column], keys: Sequence[str]) -> list[Column]:
    """The columns of some numbers, in the order of ``keys``."""
    known = {column.key: column for column in metrics}
    return [known[key] for key in keys if key in known]


def difference_columns(metrics: Sequence[Column]) -> list[Column]:
    """The columns of the differences to the baseline, image by image."""
    return axis_columns(metrics, [metric.key for metric in DIFFERENCES])


def quality_columns(metrics: Sequence[Column]) -> list[Column]:
    """The columns of quality and fidelity, the usual ones first, metrics of one's own last."""
    usual = axis_columns(metrics, QUALITIES)
    others = [
        column
        for column in metrics
        if metric_of(column.key).kind in ("quality", "fidelity") and column not in usual
    ]
    return [*usual, *(column for column in others if column.key not in (*_CONDITIONS,))]
