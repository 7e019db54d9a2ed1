"""Numbers of one setting over its seeds, each with its error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mar_accel.metrics.catalogue import (
    DIFFERENCES,
    METRICS,
    OF_A_RUN,
    Metric,
    keys_of,
)
from mar_accel.metrics.intervals import wilson_interval

KNOWN = {metric.key: metric for metric in (*OF_A_RUN, *DIFFERENCES)}
# Standard deviations over images, whose mean the number is. The error is smaller by the root of their number.
_OVER_IMAGES = {"psnr": "psnr_std", "latent_mse": "latent_mse_std", "ssim": "ssim_std"}
# Measured ranges: the smallest and the largest of the rounds or batches.
_RANGES = ("latency_s_per_image", "speedup")
# What is chosen or counted exactly has no error, and no deviation between seeds.
_EXACT = ("num_images", "fidelity_images", "batch_size", "num_devices", "num_processes", *keys_of("flops"))
# Keys that hold the error of another number, and no number of their own.
_ERRORS = {metric.error for metric in METRICS if metric.error} | {*_OVER_IMAGES.values()}
_ERRORS |= {f"{key}_{bound}" for key in _RANGES for bound in ("min", "max")}
# Recorded tables have the intervals of differences.
_BOUNDED = {metric.key for metric in DIFFERENCES}
_ERRORS |= {f"{key}_{bound}" for key in _BOUNDED for bound in ("low", "high")}


@dataclass(frozen=True)
class Number:
    """A number of one setting, over all its seeds.

    Attributes:
        value: the mean over the seeds, in the units of ``metrics.json``.
        error: one standard error of ``value``. With several seeds it is that of their mean, with one seed
            what the run itself estimates. None: unknown, or counted exactly.
        low, high: bounds of the 95 % interval of a share (Wilson), or the measured range of a speed.
        spread: standard deviation over the seeds; None for a single seed.
        count: number of seeds.
    """

    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    count: int = 1

    def text(self, metric: Metric) -> str:
        """The number with its error, such as ``2.50 ± 0.12 [σ 0.21]`` or ``97.5% (95.0–98.8%)``."""
        if self.low is not None and self.high is not None and self.low < self.high:
            text = metric.with_interval(self.value, self.low, self.high)
        else:
            text = metric.number(self.value)
            if self.error is not None and text != "equal":
                text += f" ± {metric.number(self.error)}"
        return text if self.spread is None else f"{text} [σ {metric.number(self.spread)}]"


def number_keys(metrics: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Keys of the numbers that any of the runs has: those of the catalogue in its order, then own ones."""
    there = {key for numbers in metrics for key, value in numbers.items() if value is not None} - _ERRORS
    own = dict.fromkeys(key for numbers in metrics for key in numbers if key in there and key not in KNOWN)
    return [*(key for key in KNOWN if key in there), *own]


def metric_of(key: str) -> Metric:
    """The entry of the catalogue; a metric of one's own is shown under its key."""
    return KNOWN.get(key) or Metric(key, "quality", column=key)


def number_over_seeds(key: str, runs: Sequence[Mapping[str, float | None]]) -> Number | None:
    """A number over the runs of one setting, which differ in their seed; None if a run does not have it.

    Args:
        key: key of the number.
        runs: the numbers of each run, at least one.
    """
    metric = metric_of(key)
    values = [run.get(key) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or any(
        (run.get("num_images") or math.inf) < metric.min_images for run in runs
    ):
        return None
    low, high = _bounds(metric, runs, statistics.fmean(known))
    if len(known) == 1:
        return Number(known[0], _own_error(key, runs[0]), low, high)
    if key in _EXACT:
        return Number(statistics.fmean(known), count=len(known))
    spread = statistics.stdev(known)
    return Number(statistics.fmean(known), spread / math.sqrt(len(known)), low, high, spread, len(known))


def _own_error(key: str, run: Mapping[str, float | None]) -> float | None:
    """One standard error of a number, as its own run estimates it."""
    if key in _OVER_IMAGES:
        deviation, count = run.get(_OVER_IMAGES[key]), run.get("fidelity_images")
        return None if deviation is None or not count else deviation / math.sqrt(count)
    return run.get(metric_of(key).error)


def _bounds(
    metric: Metric, runs: Sequence[Mapping[str, float | None]], mean: float
) -> tuple[float | None, float | None]:
    """The Wilson interval of a share over the images of all seeds, or the range of a speed."""
    if metric.is_share:
        counts = [run.get("num_images") for run in runs]
        total = sum(count for count in counts if count is not None)
        return wilson_interval(mean, total) if None not in counts and total else (None, None)
    if metric.key in _BOUNDED and len(runs) == 1:
        return runs[0].get(f"{metric.key}_low"), runs[0].get(f"{metric.key}_high")
    if metric.key in _RANGES:
        lows = [run.get(f"{metric.key}_min") for run in runs]
        highs = [run.get(f"{metric.key}_max") for run in runs]
        if None not in lows and None not in highs:
            return min(low for low in lows if low is not None), max(h for h in highs if h is not None)
    return None, None
