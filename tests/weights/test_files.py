"""Weight files of all kinds, and damaged ones."""

from __future__ import annotations

import argparse
import os
import zipfile
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
    _same(read_tensors(path, KEY).tensors, AVERAGED)
    _same(read_tensors(path, KEY, ema=False).tensors, PLAIN)


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
    _same(read_tensors(tmp_path / "weights.pth", KEY).tensors, PLAIN)


def test_checkpoint_of_own_training(tmp_path: Path) -> None:
    """Lightning's averaging keeps the averaged weights under state_dict."""
    named = {f"model.{key}": value for key, value in PLAIN.items()}
    averaged = {f"model.{key}": value for key, value in AVERAGED.items()}
    torch.save({"state_dict": averaged, "current_model_state": named, "loops": {}}, tmp_path / "last.ckpt")
    _same(read_tensors(tmp_path / "last.ckpt", KEY).tensors, AVERAGED)
    _same(read_tensors(tmp_path / "last.ckpt", KEY, ema=False).tensors, PLAIN)


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


ENTRIES: dict[str, tuple[dict[str, Any], str | None]] = {
    "MAR": ({"model": PLAIN, "model_ema": AVERAGED, "epoch": 3}, "model_ema"),
    "DiT": ({"model": PLAIN, "ema": AVERAGED, "opt": {"state": {}}}, "ema"),
    "timm": ({"state_dict": PLAIN, "state_dict_ema": AVERAGED}, "state_dict_ema"),
    "ema_state_dict": ({"model_state_dict": PLAIN, "ema_state_dict": AVERAGED}, "ema_state_dict"),
    "params_ema": ({"params": PLAIN, "params_ema": AVERAGED}, "params_ema"),
    "Lightning": ({"state_dict": AVERAGED, "current_model_state": PLAIN}, "state_dict"),
    "wrapped": ({"model": PLAIN, "ema": _named("module._orig_mod.", AVERAGED)}, "ema"),
    "decay beside it": ({"model": AVERAGED, "ema_decay": 0.99, "ema_config": {"decay": 0.99}}, "model"),
    "no average yet": ({"model": AVERAGED, "model_ema": None}, "model"),
    "bare": (AVERAGED, None),
}


@pytest.mark.parametrize(("contents", "entry"), ENTRIES.values(), ids=ENTRIES.keys())
def test_averaged_weights_are_found_and_named(
    tmp_path: Path, contents: dict[str, Any], entry: str | None
) -> None:
    torch.save(contents, tmp_path / "x.pth")
    found = read_tensors(tmp_path / "x.pth", KEY)
    _same(found.tensors, AVERAGED)
    assert found.entry == entry


AMBIGUOUS: dict[str, tuple[dict[str, Any], str]] = {
    "two averages": ({"model": PLAIN, "ema": AVERAGED, "model_ema": PLAIN}, r"\(ema, model_ema\)"),
    "two models": ({"model": PLAIN, "state_dict": AVERAGED}, r"\(model, state_dict\)"),
    "list": ({"model": PLAIN, "model_ema": list(AVERAGED.values())}, "the entry model_ema is a list"),
    "shadow": ({"model": PLAIN, "ema": {"shadow_params": [PLAIN["a"]]}}, "a list named shadow_params"),
    "empty": ({"model": PLAIN, "model_ema": {}}, "the entry model_ema has no named tensors"),
    "twice": ({"a": PLAIN["a"], "_orig_mod.a": PLAIN["a"]}, "with and without _orig_mod"),
}


@pytest.mark.parametrize(("contents", "words"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_is_ambiguous_is_refused(tmp_path: Path, contents: dict[str, Any], words: str) -> None:
    torch.save(contents, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words):
        read_tensors(tmp_path / "x.pth", KEY)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."])
def test_prefixes_of_wrappers_come_off(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(_named(prefix, PLAIN), path)
    _same(read_tensors(path, KEY).tensors, PLAIN)


def test_part_that_was_compiled(tmp_path: Path) -> None:
    save_file({"blocks.0._orig_mod.a": PLAIN["a"], "b": PLAIN["b"]}, tmp_path / "x.safetensors")
    assert set(read_tensors(tmp_path / "x.safetensors", KEY).tensors) == {"blocks.0.a", "b"}


NO_NUMBERS: dict[str, tuple[Any, str]] = {
    "complex": (lambda w: w.to(torch.complex64), "is complex64;"),
    "integer": (lambda w: w.to(torch.int64), "is int64;"),
    "bool": (lambda w: w > 0, "is bool;"),
    "8 bits": (lambda w: w.to(torch.float8_e4m3fn), "is float8_e4m3fn;"),
    "sparse": (lambda w: w.to_sparse(), "is sparse;"),
    "quantised": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is quantised;"),
    "nested": (lambda w: torch.nested.nested_tensor([w, w]), "is nested;"),
    "meta": (lambda w: w.to("meta"), "is without values"),
    "nan": (lambda w: w.clone().fill_(float("nan")), "has NaN or infinite values"),
    "one infinity": (lambda w: w.index_fill(0, torch.tensor([1]), float("inf")), "has NaN or infinite"),
    "too large": (lambda w: w.double().fill_(1e300), "has NaN or infinite values"),
}


@pytest.mark.parametrize(("change", "words"), NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_refused(
    tmp_path: Path, tiny_model: MAR, tiny_config: MARConfig, change: Any, words: str
) -> None:
    state = dict(tiny_model.state_dict())
    state["z_proj.weight"] = change(state["z_proj.weight"])
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: z_proj\.weight {words}"):
        load_mar(tiny_config, str(tmp_path / "x.pth"), "tiny")


def test_safetensors(tmp_path: Path) -> None:
    save_file(PLAIN, tmp_path / "weights.safetensors")
    _same(read_tensors(tmp_path / "weights.safetensors", KEY).tensors, PLAIN)


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
        WeightsError, match=r"bad\.pth asks for code to be run when it is opened \(\S+\), which is refused"
    ):
        read_tensors(path, KEY)
    assert not trace.exists()


def _reduce(function: str, argument: str) -> bytes:
    """A pickle, protocol 0, that calls a function with a text."""
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


PROGRAMS: dict[str, tuple[bytes, str]] = {
    "os.system": (_reduce("os.system", "touch ran"), "os.system"),
    "posix.system": (_reduce("posix.system", "touch ran"), "posix.system"),
    "eval": (_reduce("builtins.eval", "1"), "builtins.eval"),
    "subprocess": (_reduce("subprocess.Popen", "touch ran"), "subprocess.Popen"),
    "torch.load": (_reduce("torch.hub.load", "x"), "torch.hub.load"),
    "inst": (b"(Vtouch ran\nios\nsystem\n.", "os.system"),
    "obj": (b"(cos\nsystem\nVtouch ran\no.", "os.system"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.", "os.system"),
    "memo": (b"\x80\x04\x8c\x06system\x940\x8c\x02osh\x00\x93\x8c\x01x\x85R.", "os.system"),
    "extension": (b"\x80\x02\x82\x05.", "an extension with the code 5"),
    "after a dict": (b"\x80\x02}." + _reduce("nt.system", "x"), "nt.system"),
}


@pytest.mark.parametrize("in_zip", [False, True], ids=["bare", "zip"])
@pytest.mark.parametrize(("program", "named"), PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.filterwarnings("ignore")
def test_pickle_with_a_program_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, named: str, in_zip: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if in_zip:
        with zipfile.ZipFile("x.pth", "w") as archive:
            archive.writestr("x/data.pkl", program.removeprefix(b"\x80\x02}."))
            archive.writestr("x/version", "3\n")
    else:
        Path("x.pth").write_bytes(program)
    with pytest.raises(WeightsError, match=rf"asks for code to be run when it is opened \({named}\)"):
        read_tensors(Path("x.pth"), KEY)
    assert not Path("ran").exists()


def test_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(WeightsError, match="unpacks to 10,000,000 bytes"):
        read_tensors(tmp_path / "x.pth", KEY)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_weights_that_never_end(tmp_path: Path, tiny_config: MARConfig, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="is a pipe, a device or a socket"):
        load_mar(tiny_config, str(tmp_path / name), "tiny")


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
        ({"epoch": 3}, "is not a state dict and has none of the entries model, state_dict,"),
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
