"""The list of metrics: records, tables and sweeps follow from it."""

from __future__ import annotations

from collections import Counter

import torch

from mar_accel.config.compose import compose_settings
from mar_accel.data.scenes import CATEGORIES
from mar_accel.evaluation.result import Evaluation, result_table
from mar_accel.metrics.catalogue import (
    GENERATE_METRICS,
    METRIC_KEYS,
    METRICS,
    SCENE_SCORES,
    Metric,
    keys_of,
)
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.profiling.speed import latency_summary, speedup
from mar_accel.runs.sweep_summary import _SHOWN
from mar_accel.sweeps.collected_table import Collected, CollectedRow
from mar_accel.sweeps.numbers import metric_of, number_keys, number_over_seeds
from mar_accel.sweeps.objectives import directions
from mar_accel.sweeps.tables import cells, heading


def test_keys_are_unique_and_errors_exist() -> None:
    assert max(Counter(metric.key for metric in (*METRICS, *GENERATE_METRICS)).values()) == 1
    assert {metric.error for metric in METRICS if metric.error} <= set(METRIC_KEYS)


def test_what_is_computed_is_listed() -> None:
    features = FeatureSet(torch.arange(2), torch.zeros(2).long(), torch.rand(2, 4), torch.rand(2, 10))
    assert set(measure_quality(features, DigitFeatures(), None).numbers) == set(keys_of("quality"))
    speeds = latency_summary([1.0]) | speedup([1.0], [1.0])
    assert set(speeds) <= set(keys_of("speed"))


def test_one_entry_is_shown_everywhere() -> None:
    numbers = {metric.key: 0.25 for metric in METRICS}
    shown = result_table("", Evaluation(dict(numbers)))
    assert list(shown.columns[0].cells) == [metric.heading for metric in METRICS if metric.heading]
    known = {key: number_over_seeds(key, [numbers]) for key in number_keys([numbers])}
    row = CollectedRow({}, (), {key: n for key, n in known.items() if n is not None}, label="row")
    table = Collected((), (row,), tuple(known), (0,))
    assert heading(table)[1:] == [metric.column for metric in METRICS if metric.column]
    assert dict(zip(heading(table), cells(table, row), strict=True))["recognised"] == "25.0% (0.4–96.5%)"
    every = (*METRICS, *SCENE_SCORES, *GENERATE_METRICS)
    assert set(_SHOWN) == {metric.key for metric in every if metric.in_sweep}


def test_the_scores_of_scenes_are_those_of_the_metric() -> None:
    settings = compose_settings("evaluate", ["model=scenes", "dataset=scenes_eval"])
    (name,) = settings.metrics
    keys = [f"{name}_{key}" for key in ("overall", *CATEGORIES)]
    assert keys == [metric.key for metric in SCENE_SCORES]
    assert all(metric_of(key).better == metric_of(f"{key}_difference").better == "higher" for key in keys)
    assert directions(["scenes_overall"], None) == ["maximize"]


def test_text_of_a_metric() -> None:
    kid = Metric("kid", "quality", spec=".1f", error="kid_std", scale=1e3, column_spec=".2f")
    assert kid.text({"kid": 0.002, "kid_std": 0.001}) == "2.0 ± 1.0"
    assert kid.cell({"kid": 0.002, "kid_std": 0.001}) == "2.00"  # its error is no standard error
    assert kid.text({"kid": 0.002, "kid_std": None}) == "2.0" and kid.text({}) == "–"
