"""A run of convert: write a checkpoint as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mar_accel.config.settings import ModelSettings, Settings
from mar_accel.inference.build import build_autoencoder, mar_architecture
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.runs.record import prepare_output_dir
from mar_accel.weights.folder import VAE_FOLDER, save_model_folder
from mar_accel.weights.loading import load_mar

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
    network = load_mar(mar_architecture(model), model.weights, model.name, model.ema)
    autoencoder = _autoencoder(model)
    folder = prepare_output_dir(Path(settings.output_dir).absolute())
    save_model_folder(
        folder,
        network,
        autoencoder,
        name=model.name,
        sampling=model.sampling,
        dtype=DTYPES[settings.dtype],
    )
    return Conversion(folder, autoencoder is not None)


def _autoencoder(model: ModelSettings) -> Autoencoder | None:
    """The autoencoder to save with the model; None if only the model's own weights were given."""
    given = model.autoencoder.get("weights")
    if given is not None and given == model.weights:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / VAE_FOLDER).is_dir()):
            return None
    return build_autoencoder(model)
