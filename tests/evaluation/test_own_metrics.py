"""Metrics of one's own: tried before anything is sampled, and no reason to lose the other results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.run import evaluate
from mar_accel.utils.json_files import write_json

SHAPE = (1, 32, 32)


class Count(Metric):
    """Counts images; the base of the metrics below."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor, labels: Tensor) -> None:
        self.count += len(images)

    def compute(self) -> Any:
        return self.count


class ImagesAlone(Count):
    def update(self, images: Tensor) -> None:  # type: ignore[override]
        self.count += len(images)


class Text(Count):
    def compute(self) -> Any:
        return "many"


class Vector(Count):
    def compute(self) -> Any:
        return torch.zeros(3)


class NeedsMore(Count):
    def compute(self) -> Any:
        if self.count < 3:
            raise ValueError("too few images")
        return {"all": self.count}


class NotANumber(Count):
    def compute(self) -> Any:
        return torch.tensor(math.nan)


class FailsLate(Count):
    def compute(self) -> Any:
        if self.count > 2:
            raise RuntimeError("too many images")
        return self.count


def _metrics(*classes: type) -> OwnMetrics:
    overrides = [f"+metrics.{cls.__name__.lower()}._target_={__name__}.{cls.__name__}" for cls in classes]
    return OwnMetrics.of(compose_settings("evaluate", overrides), SHAPE)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (ImagesAlone, "(ImagesAlone): update(images, labels) fails on uint8 images [2, 1, 32, 32]"),
        (Text, "(Text): compute must return a number or a dict of numbers, got 'many' (str); mend"),
        (Vector, "got a torch.float32 tensor of shape [3]; mend the class."),
    ],
)
def test_a_metric_that_fails_is_refused_before_anything_is_sampled(cls: type, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _metrics(cls)


def test_trying_a_metric_leaves_it_empty_and_a_failure_at_the_end_keeps_the_others() -> None:
    own = _metrics(Count, NeedsMore, NotANumber, FailsLate)
    own.update(torch.zeros(5, *SHAPE, dtype=torch.uint8), torch.arange(5))
    assert own.compute() == {"count": 5, "needsmore_all": 5, "notanumber": None, "failslate": None}
    assert own.warnings == [
        "metrics.notanumber has no value: notanumber is nan.",
        "metrics.failslate has no value: RuntimeError: too many images.",
    ]


class Inception(Count):
    def compute(self) -> Any:
        return {"score": 42.0, "own": 1.0}


class NeedsMore_All(Count):
    pass


def test_numbers_of_one_name_do_not_replace_each_other() -> None:
    own = _metrics(Inception, NeedsMore, NeedsMore_All)
    own.update(torch.zeros(5, *SHAPE, dtype=torch.uint8), torch.arange(5))
    assert own.compute() == {"inception_own": 1.0, "needsmore_all": 5}
    assert [warning.partition(",")[0] for warning in own.warnings] == [
        "metrics.inception gives inception_score",
        "metrics.needsmore_all gives needsmore_all",
    ]


class FailsAtThree(Count):
    def update(self, images: Tensor, labels: Tensor) -> None:
        if 3 in labels:
            raise RuntimeError("no threes")
        super().update(images, labels)


def test_a_metric_that_fails_while_sampling_costs_only_its_own_value(tiny: list[str], tmp_path: Path) -> None:
    names = {"three": "FailsAtThree", "count": "Count"}
    overrides = [f"+metrics.{name}._target_={__name__}.{cls}" for name, cls in names.items()]
    few = ["dataset.num_images=6", "trainer.batch_size=2", "evaluate.baseline=none", "features=none"]
    evaluate(compose_settings("evaluate", [*tiny, *overrides, *few, f"output_dir={tmp_path / 'run'}"]))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["three"], metrics["count"], metrics["num_images"]) == (None, 6, 6)
    assert "metrics.three has no value: update fails: RuntimeError: no threes." in metrics["warnings"]


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path: Path) -> None:
    write_json({"a": math.nan, "b": [1.5, math.inf], "c": (-math.inf, {"d": 2})}, tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None],
        "c": [None, {"d": 2}],
    }


def test_a_wrong_metric_leaves_no_run_folder(tiny: list[str], tmp_path: Path) -> None:
    overrides = [f"+metrics.text._target_={__name__}.Text", f"output_dir={tmp_path / 'run'}"]
    cache = [
        f"reference.cache_dir={tmp_path}",
        "dataset.num_images=4",
        "evaluate.baseline=none",
        "features=none",
    ]
    with pytest.raises(ConfigError, match=r"metrics\.text \(Text\): compute must return a number"):
        evaluate(compose_settings("evaluate", [*tiny, *overrides, *cache]))
    assert not (tmp_path / "run").exists()


def test_a_metric_that_fails_at_the_end_is_null_in_metrics_json(tiny: list[str], tmp_path: Path) -> None:
    overrides = [f"+metrics.late._target_={__name__}.FailsLate", f"output_dir={tmp_path / 'run'}"]
    cache = [
        f"reference.cache_dir={tmp_path}",
        "dataset.num_images=4",
        "evaluate.baseline=none",
        "features=none",
    ]
    evaluate(compose_settings("evaluate", [*tiny, *overrides, *cache]))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["late"] is None and metrics["num_images"] == 4 and metrics["latency_s_per_image"] > 0
    assert "metrics.late has no value: RuntimeError: too many images." in metrics["warnings"]
