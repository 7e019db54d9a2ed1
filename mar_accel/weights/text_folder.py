"""Reads the folder of a text-to-image model: a model folder with ``text_encoder/``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.weights.folder import CONFIG_FILE, MODEL_FILE, TEXT_ENCODER_FOLDER


def load_text_model(folder: Path) -> tuple[LightGen, nn.Module]:
    """Load model and text encoder of a folder, in float32 and evaluation mode."""
    from transformers import T5EncoderModel

    architecture = json.loads((folder / CONFIG_FILE).read_text())["architecture"]
    model = LightGen(LightGenConfig(**architecture))
    model.load_state_dict(load_file(folder / MODEL_FILE))
    encoder = T5EncoderModel.from_pretrained(folder / TEXT_ENCODER_FOLDER, dtype=torch.float32)
    return model.eval(), encoder.eval()
