"""Tokens of a run's first images, kept batch by batch: a run that was cut off need not sample them again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar_accel.data.image_sets import TOKENS_NAME
from mar_accel.inference import Prediction

# Only an unfinished run has this folder; a finished one has all tokens in one file.
_FOLDER = ".tokens"


class TokenWriter(BasePredictionWriter):
    """Saves the tokens of every batch that holds some of the first images.

    Args:
        output_dir: the run folder; exists.
        keep: tokens of the sample indices below this one are saved.
    """

    def __init__(self, output_dir: Path, keep: int):
        super().__init__(write_interval="batch")
        self.output_dir = output_dir
        self.keep = keep

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Prediction,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        first = [row for row, index in enumerate(prediction.indices.tolist()) if index < self.keep]
        if not first:
            return
        folder = self.output_dir / _FOLDER
        folder.mkdir(exist_ok=True)
        indices, tokens = prediction.indices[first].cpu(), prediction.tokens[first].float().cpu()
        save_tensors({"indices": indices, "tokens": tokens}, folder / f"{int(indices[0]):06d}.safetensors")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write through a temporary name, so that a kill leaves no half file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def write_tokens(tokens: Tensor, output_dir: Path) -> None:
    """Write the tokens [n, L, C] of a finished run's first images."""
    save_tensors({"tokens": tokens}, output_dir / TOKENS_NAME)


def remove_batches(output_dir: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(output_dir / _FOLDER, ignore_errors=True)


def read_tokens(output_dir: Path) -> dict[int, Tensor]:
    """Tokens [L, C] by sample index, of a run finished or cut off; damaged files count as missing."""
    found: dict[int, Tensor] = dict(enumerate(_read(output_dir / TOKENS_NAME).get("tokens", torch.empty(0))))
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
