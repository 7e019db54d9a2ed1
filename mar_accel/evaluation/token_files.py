"""Tokens of a run's first images, saved after each batch, so that an interrupted run can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar_accel.data.run_files import TOKENS_FILE
from mar_accel.inference.session import Prediction
from mar_accel.utils.whole_files import written_whole

# Only an unfinished run has this folder; a finished one has all tokens in one file.
_FOLDER = ".tokens"


class TokenWriter(pl.Callback):
    """Saves the tokens of every batch that contains some of the first images.

    Args:
        output_dir: the run folder; it must exist.
        keep: tokens of sample indices below this number are saved.
    """

    def __init__(self, output_dir: Path, keep: int):
        self.output_dir = output_dir
        self.keep = keep

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        first = [row for row, index in enumerate(outputs.indices.tolist()) if index < self.keep]
        if not first:
            return
        folder = self.output_dir / _FOLDER
        folder.mkdir(exist_ok=True)
        indices, tokens = outputs.indices[first].cpu(), outputs.tokens[first].float().cpu()
        save_tensors({"indices": indices, "tokens": tokens}, folder / f"{int(indices[0]):06d}.safetensors")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a .safetensors file atomically."""
    with written_whole(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def write_tokens(tokens: Tensor, output_dir: Path) -> None:
    """Write the tokens [n, L, C] of a finished run's first images."""
    save_tensors({"tokens": tokens}, output_dir / TOKENS_FILE)


def remove_batches(output_dir: Path) -> None:
    """Remove the files that only an unfinished run needs."""
    shutil.rmtree(output_dir / _FOLDER, ignore_errors=True)


def read_tokens(output_dir: Path) -> dict[int, Tensor]:
    """Tokens [L, C] by sample index, of a finished or interrupted run.

    Damaged files count as missing.
    """
    whole: Iterable[Tensor] = _read(output_dir / TOKENS_FILE).get("tokens", ())
    found = dict(enumerate(whole))
    for file in sorted((output_dir / _FOLDER).glob("*.safetensors")):
        tensors = _read(file)
        if tensors:
            found.update(zip(tensors["indices"].tolist(), tensors["tokens"], strict=True))
    return found


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return {}


def num_tokens(folder: Path) -> int:
    """Number of images whose tokens are stored in a run folder."""
    try:
        with safe_open(folder / TOKENS_FILE, framework="pt") as file:
            return int(file.get_slice("tokens").get_shape()[0])
    except (OSError, SafetensorError):
        return 0
