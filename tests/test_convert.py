"""``python -m mar_accel.convert``: a checkpoint to a model folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.runs.conversion import Conversion, convert
from mar_accel.weights.folder import read_description
from mar_accel.weights.loading import load_mar

TINY = {
    "embed_dim": 16,
    "num_heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "head_depth": 1,
    "head_width": 16,
    "grid": (4, 4),
    "buffer_size": 2,
    "num_classes": 3,
}
OVERRIDES = [f"model.architecture.{key}={list(v) if key == 'grid' else v}" for key, v in TINY.items()]


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, MAR]:
    """A file as published, of a tiny model with KL-16's latents, and the model of its averaged weights."""
    model = load_mar(MARConfig(**TINY), "random", "tiny")
    plain = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    path = tmp_path / "checkpoint-last.pth"
    contents = {"model": plain, "model_ema": model.state_dict(), "args": argparse.Namespace(model="tiny")}
    torch.save(contents, path)
    return path, model


def _convert(*overrides: str) -> Conversion:
    return convert(compose_settings("convert", ["model=mar_base", *OVERRIDES, *overrides]))


def test_checkpoint_to_folder(tmp_path: Path, checkpoint: tuple[Path, MAR]) -> None:
    path, model = checkpoint
    conversion = _convert(f"model.weights={path}", f"output_dir={tmp_path / 'out'}")
    folder = conversion.folder
    assert folder == tmp_path / "out" and not conversion.has_autoencoder
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    described = read_description(folder, "model.weights")
    assert (described.name, described.autoencoder) == ("mar_base", "kl")
    assert described.sampling["guidance_scale"] == 2.9
    loaded = load_mar(described.architecture, str(folder), "mar_base")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(WeightsError, match=r"model\.autoencoder\.weights=\S+out has no vae"):
        MARPipeline.from_pretrained(folder)


def test_plain_weights_in_half_precision(tmp_path: Path, checkpoint: tuple[Path, MAR]) -> None:
    folder = _convert(
        f"model.weights={checkpoint[0]}",
        "model.ema=false",
        "dtype=bfloat16",
        f"output_dir={tmp_path / 'out'}",
    ).folder
    size, whole = (folder / "model.safetensors").stat().st_size, checkpoint[1].state_dict().values()
    assert size < 0.8 * sum(4 * value.numel() for value in whole)
    loaded = load_mar(MARConfig(**TINY), str(folder), "mar_base")
    assert not any(bool(value.any()) for value in loaded.state_dict().values())


@pytest.mark.slow
def test_with_autoencoder_to_images(tmp_path: Path, checkpoint: tuple[Path, MAR]) -> None:
    """The folder is all that sampling needs."""
    folder = _convert(
        f"model.weights={checkpoint[0]}", "model.autoencoder.weights=random", f"output_dir={tmp_path / 'out'}"
    ).folder
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    (image,) = MARPipeline.from_pretrained(folder)(1, num_iter=2, num_diffusion_steps=2).images
    assert image.size == (64, 64) and image.mode == "RGB"


def test_refusals_write_nothing(tmp_path: Path, checkpoint: tuple[Path, MAR]) -> None:
    path, out = checkpoint[0], tmp_path / "out"
    with pytest.raises(WeightsError, match=r"^model\.weights is not set"):
        _convert(f"output_dir={out}")
    with pytest.raises(
        WeightsError,
        match=r"does not fit model=mar_base: diffloss\.net\.input_proj\.weight is \[16, 16\], not \[32, 16\]",
    ):
        _convert(f"model.weights={path}", "model.architecture.head_width=32", f"output_dir={out}")
    with pytest.raises(ConfigError, match=r"^dtype must be float32, bfloat16 or float16, got 'int8'\.$"):
        _convert(f"model.weights={path}", "dtype=int8", f"output_dir={out}")
    with pytest.raises(WeightsError, match=r"^model\.autoencoder\.weights=\S+ does not exist"):
        _convert(f"model.weights={path}", "model.autoencoder.weights=kl16.ckpt", f"output_dir={out}")
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"output_dir=\S+ is a file, or inside one"):
        _convert(f"model.weights={path}", f"output_dir={path}/below")


def test_the_command_says_what_it_has_written(
    run_here: Callable[..., Any], tmp_path: Path, checkpoint: tuple[Path, MAR]
) -> None:
    run = run_here("convert", *OVERRIDES, f"model.weights={checkpoint[0]}", f"output_dir={tmp_path / 'out'}")
    assert run.status == 0, run.stderr
    assert "the folder has no vae" in run.stdout and f"mar_base (float32): {tmp_path / 'out'}" in run.stdout
