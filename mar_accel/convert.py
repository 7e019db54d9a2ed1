"""Checkpoints to model folders: ``python -m mar_accel.convert model=mar_base model.weights=FILE``."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_autoencoder
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.runs.entry import command
from mar_accel.runs.record import prepare_output_dir
from mar_accel.weights.folder import VAE_FOLDER, save_model_folder
from mar_accel.weights.loading import load_mar

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def convert(config: DictConfig) -> Path:
    """Write the folder that the config asks for; returns it.

    Raises:
        ConfigError: ``dtype`` is unknown, or ``output_dir`` cannot be written.
        WeightsError: weights are missing, damaged, or of another model; nothing has been written then.
    """
    if config.dtype not in DTYPES:
        raise ConfigError(f"dtype={config.dtype} is unknown; choose one of {', '.join(DTYPES)}.")
    model = config.model
    network = load_mar(build_architecture(model), model.weights, model.name, model.get("ema", True))
    autoencoder = _autoencoder(model)
    folder = prepare_output_dir(Path(config.output_dir).absolute())
    save_model_folder(
        folder,
        network,
        autoencoder,
        name=model.name,
        guidance_scale=model.sampling.guidance_scale,
        max_timestep=model.sampling.max_timestep,
        head_refresh_below=model.sampling.get("head_refresh_below", 0.0),
        dtype=DTYPES[config.dtype],
    )
    if autoencoder is None:
        print(
            "No model.autoencoder.weights was given: the folder has no vae, and sampling must be told of one."
        )
    print(f"{model.name} ({config.dtype}): {folder}")
    return folder


def _autoencoder(model: DictConfig) -> Autoencoder | None:
    """The autoencoder to put beside the weights; None where only weights of the model's own were given."""
    given = model.autoencoder.get("weights")
    if given is not None and given == model.weights:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / VAE_FOLDER).is_dir()):
            return None
    return build_autoencoder(model)


@command("convert")
def main(config: DictConfig) -> None:
    convert(config)


if __name__ == "__main__":
    main()
