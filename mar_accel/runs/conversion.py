"""A run of convert: a checkpoint becomes a model folder."""

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
    """The folder that was written, and whether it holds an autoencoder."""

    folder: Path
    has_autoencoder: bool


def convert(settings: Settings) -> Conversion:
    """Write the folder that the settings ask for.

    Raises:
        ConfigError: ``output_dir`` cannot be written.
        WeightsError: weights are missing, damaged, or of another model; nothing has been written then.
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
    """The autoencoder to save beside the weights; None where only weights of the model's own were given."""
    given = model.autoencoder.get("weights")
    if given is not None and given == model.weights:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / VAE_FOLDER).is_dir()):
            return None
    return build_autoencoder(model)
