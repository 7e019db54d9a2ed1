"""Weight files of all kinds, and damaged ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mar_accel.errors import WeightsError
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights.files import read_tensors
from mar_accel.weights.loading import load_mar

KEY = "model.weights"
PLAIN: dict[str, Tensor] = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
AVERAGED: dict[str, Tensor] = {key: value + 1 for key, value in PLAIN.items()}


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("new_format", [True, False])
def test_published_checkpoint(tmp_path: Path, new_format: bool) -> None:
    """The averaged weights unless others are asked for; the training script's command line does no harm."""
    path = tmp_path / "checkpoint-last.pth"
    contents = {"model": PLAIN, "model_ema": AVERAGED, "epoch": 400, "args": argparse.Namespace(lr=1e-4)}
    torch.save(contents, path, _use_new_zipfile_serialization=new_format)
    _same(read_tensors(path, KEY), AVERAGED)
    _same(read_tensors(path, KEY, ema=False), PLAIN)


@pytest.mark.parametrize(
    "contents",
    [
        PLAIN,
        {"model": PLAIN},
        {"state_dict": PLAIN},
        {f"module.{key}": value for key, value in PLAIN.items()},
    ],
    ids=["bare", "model", "state_dict", "parallel"],
)
def test_other_layouts(tmp_path: Path, contents: dict[str, Any]) -> None:
    torch.save(contents, tmp_path / "weights.pth")
    _same(read_tensors(tmp_path / "weights.pth", KEY), PLAIN)


def test_checkpoint_of_own_training(tmp_path: Path) -> None:
    """Lightning's averaging keeps the averaged weights under state_dict."""
    named = {f"model.{key}": value for key, value in PLAIN.items()}
    averaged = {f"model.{key}": value for key, value in AVERAGED.items()}
    torch.save({"state_dict": averaged, "current_model_state": named, "loops": {}}, tmp_path / "last.ckpt")
    _same(read_tensors(tmp_path / "last.ckpt", KEY), AVERAGED)
    _same(read_tensors(tmp_path / "last.ckpt", KEY, ema=False), PLAIN)


def test_safetensors(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "weights.safetensors")
    _same(read_tensors(tmp_path / "weights.safetensors", KEY), PLAIN)


class _RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_arbitrary_pickle_is_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    trace, path = tmp_path / "ran", tmp_path / "bad.pth"
    torch.save({"model": PLAIN, "x": _RunsCode(trace)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        WeightsError, match=r"bad\.pth holds a pickled \S+, which is refused because it could run"
    ):
        read_tensors(path, KEY)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_truncated_file_is_refused_in_one_sentence(tmp_path: Path, name: str, share: float) -> None:
    path, tensors = tmp_path / name, {"a": torch.randn(64, 64)}
    if name.endswith(".safetensors"):
        save_file(tensors, path)
    else:
        torch.save({"model_ema": tensors}, path, _use_new_zipfile_serialization=name != "old.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        WeightsError, match=r"^model\.weights=\S+ \([\d,]+ bytes\) is damaged, truncated"
    ) as caught:
        read_tensors(path, KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"epoch": 3}, "is not a state dict and has none of the entries model_ema, model, state_dict;"),
        ({}, "none of the entries"),
        (torch.zeros(3), "must hold a state dict, got a Tensor"),
        ([1, 2], "must hold a state dict, got a list"),
    ],
)
def test_file_of_something_else(tmp_path: Path, contents: Any, words: str) -> None:
    torch.save(contents, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words):
        read_tensors(tmp_path / "x.pth", KEY)


def test_plain_weights_of_an_averaged_file(tmp_path: Path) -> None:
    torch.save({"model_ema": AVERAGED}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"only averaged weights; set model\.ema=true"):
        read_tensors(tmp_path / "x.pth", KEY, ema=False)


def test_half_precision_file_gives_a_float32_model(
    tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig
) -> None:
    state = {key: value.to(torch.bfloat16) for key, value in tiny_model.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    loaded = load_mar(tiny_config, str(tmp_path / "half.safetensors"), "tiny")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(loaded.z_proj.weight, tiny_model.z_proj.weight, rtol=1e-2, atol=1e-3)


def test_folder_as_published(tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig) -> None:
    torch.save({"model_ema": tiny_model.state_dict()}, tmp_path / "checkpoint-last.pth")
    _same(load_mar(tiny_config, str(tmp_path), "tiny").state_dict(), tiny_model.state_dict())
