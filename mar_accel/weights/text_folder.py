"""Folders of text-to-image models: ``config.json``, ``model.safetensors`` and ``text_encoder/``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mar_accel import __version__
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.weights.folder import CONFIG_FILE, MODEL_FILE

TEXT_ENCODER_FOLDER = "text_encoder"


def save_text_model(
    folder: Path,
    model: LightGen,
    encoder: nn.Module,
    name: str,
    sampling: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a folder with a text-to-image model and its text encoder.

    Args:
        folder: the folder; created if it does not exist. Files with the same names are replaced.
        model: the model; its weights are saved as they are.
        encoder: the text encoder, a transformers model.
        name: name of the model.
        sampling: sampling defaults of the model.
        dtype: dtype of the saved weights; half precision halves the size of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / MODEL_FILE, metadata={"format": "pt"})
    # save_pretrained keeps the dtype of the weights.
    halved: Any = copy.deepcopy(encoder).to("cpu", dtype)
    halved.save_pretrained(folder / TEXT_ENCODER_FOLDER)
    record: dict[str, Any] = {"_class_name": "LightGen", "mar_accel_version": __version__, "name": name}
    record |= {"sampling": dict(sampling), "architecture": asdict(model.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n")
    return folder


def load_text_model(folder: Path) -> tuple[LightGen, nn.Module]:
    """Load model and text encoder of a folder, in float32 and evaluation mode."""
    from transformers import T5EncoderModel

    architecture = json.loads((folder / CONFIG_FILE).read_text())["architecture"]
    model = LightGen(LightGenConfig(**architecture))
    model.load_state_dict(load_file(folder / MODEL_FILE))
    encoder = T5EncoderModel.from_pretrained(folder / TEXT_ENCODER_FOLDER, dtype=torch.float32)
    return model.eval(), encoder.eval()
