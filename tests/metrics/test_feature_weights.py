"""Weights of the networks that judge images: what is no number would judge nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.feature_weights import require_finite, shipped_file

Change = Callable[[Tensor], Tensor]
NO_WEIGHTS: dict[str, tuple[Change, str]] = {
    "nan": (lambda w: w * float("nan"), "has NaN or infinite values"),
    "infinite": (lambda w: w + float("inf"), "has NaN or infinite values"),
    "too large": (lambda w: w.double() + 1e300, "has NaN or infinite values"),
    "integers": (lambda w: (100 * w).to(torch.int8), "is int8; save the weights as float32"),
    "8 bits": (lambda w: w.to(torch.float8_e4m3fn), "is float8_e4m3fn; save the weights"),
    "bool": (lambda w: w > 0, "is bool; save the weights"),
}


def _changed(path: Path, change: Change) -> str:
    state = load_file(shipped_file("digit_features"))
    state |= {key: change(value) for key, value in state.items() if key == "classifier.weight"}
    save_file(state, path / "w.safetensors")
    return str(path / "w.safetensors")


@pytest.mark.parametrize(("change", "words"), NO_WEIGHTS.values(), ids=NO_WEIGHTS.keys())
def test_what_is_no_weight_is_refused(change: Change, words: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"^features\.weights=\S+w\.safetensors: classifier\.weight {words}"
    ):
        DigitFeatures(_changed(tmp_path, change))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_of_weights_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    features = DigitFeatures(_changed(tmp_path, lambda w: w.to(dtype)))
    assert {value.dtype for value in features.network.parameters()} == {torch.float32}


def test_a_network_of_another_library_must_be_finite() -> None:
    network = torch.nn.Linear(2, 2)
    require_finite(network, "x")
    torch.nn.init.constant_(network.bias, float("nan"))
    with pytest.raises(ConfigError, match=r"features\.weights=x: bias has NaN or infinite values"):
        require_finite(network, "x")
