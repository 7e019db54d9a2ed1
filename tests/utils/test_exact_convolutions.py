"""Convolutions keep float32 wherever pixels, features or metrics are computed, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.metrics.features import FeatureExtractor, Features
from mar_accel.pipeline import MARPipeline
from mar_accel.sampling.observer import Observer
from mar_accel.utils.exact_convolutions import exact_convolutions


@pytest.fixture(autouse=True)
def rounding() -> Iterator[None]:
    """cuDNN's default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


def _sample(note: Callable[[], None]) -> None:
    class Watching(Observer):
        def autoencoder_start(self, latents: Tensor) -> None:
            note()

    MARPipeline("digits")([3], num_iter=1, num_diffusion_steps=1, observer=Watching())


def _extract(note: Callable[[], None]) -> None:
    class Noting(FeatureExtractor):
        device = torch.device("cpu")

        def forward(self, images: Tensor) -> Features:
            note()
            return Features(images.float().flatten(1), images.new_empty(len(images), 0))

    Noting()(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def _measure(note: Callable[[], None]) -> None:
    class Ink(Metric):
        def update(self, images: Tensor, labels: Tensor) -> None:
            note()

        def compute(self) -> float:
            return 0.0

    OwnMetrics({"ink": Ink()}).update(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1))


@pytest.mark.parametrize("compute", [_sample, _extract, _measure])
def test_nothing_is_rounded_and_the_callers_choice_is_kept(compute: Callable[..., Any]) -> None:
    seen: list[bool] = []
    compute(lambda: seen.append(torch.backends.cudnn.allow_tf32))
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_the_choice_is_kept_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), exact_convolutions():
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32


def test_the_newer_switches_of_torch_are_kept_too() -> None:
    """Beside them the older switch cannot be read."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    if conv is None or not hasattr(conv, "fp32_precision"):
        pytest.skip("this torch has the older switch alone")
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "tf32"
        with exact_convolutions():
            assert conv.fp32_precision == "ieee" or not torch.backends.cudnn.allow_tf32
        assert conv.fp32_precision == "tf32"
    finally:
        conv.fp32_precision = before
