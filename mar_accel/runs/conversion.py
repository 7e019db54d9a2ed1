"""A run of convert: write a checkpoint as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mar_accel.config.settings import ModelSettings, Settings
from mar_accel.inference.build import build_architecture, build_autoencoder
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.text_encoder import T5Size
from mar_accel.runs.output_dir import prepare_output_dir, require_folder
from mar_accel.weights.autoencoder_folder import VAE_FOLDER
from mar_accel.weights.autoencoders import kind_of_node
from mar_accel.weights.folder import save_model_folder
from mar_accel.weights.loading import load_mar
from mar_accel.weights.text_folder import load_word_encoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Conversion:
    """The written folder, and whether it contains an autoencoder."""

    folder: Path
    has_autoencoder: bool


def convert(settings: Settings) -> Conversion:
    """Write the model folder of a config.

    Raises:
        ConfigError: ``output_dir`` cannot be written.
        WeightsError: weights are missing, damaged or of another model. Nothing is written in this case.
    """
    model = settings.model
    require_folder(Path(settings.output_dir).absolute())
    network = load_mar(build_architecture(model), model.weights, model.name, model.ema)
    autoencoder = _autoencoder(model)
    folder = prepare_output_dir(Path(settings.output_dir).absolute())
    save_model_folder(
        folder,
        network,
        autoencoder,
        name=model.name,
        sampling=model.sampling,
        text_encoder=_text_encoder(model),
        dtype=DTYPES[settings.dtype],
        autoencoder_kind=kind_of_node(model.autoencoder),
    )
    return Conversion(folder, autoencoder is not None)


def _text_encoder(model: ModelSettings) -> nn.Module | None:
    """The text encoder that was trained with the model; None if there is none, or a published one."""
    if model.text_encoder is None or "_target_" in model.text_encoder:
        return None
    return load_word_encoder(model.weights, T5Size(**model.text_encoder))


def _autoencoder(model: ModelSettings) -> Autoencoder | None:
    """The autoencoder to save with the model; None if only the model's own weights were given."""
    given = model.autoencoder.get("weights")
    if given is not None and given == model.weights:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / VAE_FOLDER).is_dir()):
            return None
    return build_autoencoder(model)
