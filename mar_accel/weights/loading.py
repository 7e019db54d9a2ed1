"""Load models and autoencoders with the weights that a config names."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.kl16 import diffusers_names, has_latent_diffusion_names, kl16_autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.models.sizes import check_memory
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.folder import CONFIG_FILE, MODEL_FILE, VAE_FILE, VAE_FOLDER, read_description
from mar_accel.weights.random_weights import fill_randomly
from mar_accel.weights.sources import locate

MODEL_KEY = "model.weights"
AUTOENCODER_KEY = "model.autoencoder.weights"
MODEL_HUB_FILES = (CONFIG_FILE, MODEL_FILE)
AUTOENCODER_HUB_FILES = (CONFIG_FILE, VAE_FILE, f"{VAE_FOLDER}/{CONFIG_FILE}", f"{VAE_FOLDER}/{VAE_FILE}")
VAE_CLASS = "AutoencoderKL"
PUBLISHED_FILE = "checkpoint-last.pth"


def load_mar(config: MARConfig, weights: str | None, name: str, ema: bool = True) -> MAR:
    """Load a MAR model on the CPU, in float32 and evaluation mode.

    Args:
        config: architecture of the model.
        weights: source of the weights; see :func:`mar_accel.weights.sources.locate`.
        name: name of the model, for messages.
        ema: use the averaged weights if the checkpoint has them.

    Raises:
        WeightsError: the weights are missing, damaged or belong to another model.
            Nothing is loaded in this case.

    Example:
        >>> model = load_mar(MARConfig(**settings.model.architecture), "digits", "digits")
    """
    path = locate(weights, MODEL_KEY, MODEL_HUB_FILES)
    # Shapes are compared on the meta device, before any memory is allocated.
    with torch.device("meta"):
        model = MAR(config)
    check_memory(model)
    if path is None:
        fill_randomly(model.to_empty(device="cpu"))
        return model.eval()
    if path.is_dir():
        path = _model_file(path, config, name)
    state = read_tensors(path, MODEL_KEY, ema)
    require_fit(model, state, f"{MODEL_KEY}={path} does not fit model={name}")
    model.to_empty(device="cpu").load_state_dict(state)
    return model.eval()


def require_architecture(folder: Path, config: MARConfig, name: str) -> None:
    """Raise WeightsError if the model in a folder has another architecture.

    The shapes of the weights alone would not reveal every difference.
    """
    held = read_description(folder, MODEL_KEY)
    theirs, ours = asdict(held.architecture), asdict(config)
    # Dropout only matters in training.
    different = [key for key in ours if theirs[key] != ours[key] and key != "dropout"]
    if different:
        values = ", ".join(f"{key} is {theirs[key]}, not {ours[key]}" for key in different)
        advice = f"use model={held.name}" if held.name != name else "change model.architecture to match"
        raise WeightsError(
            f"{MODEL_KEY}={folder} holds {held.name}, which does not fit model={name}: {values}; {advice}."
        )


def _model_file(folder: Path, config: MARConfig, name: str) -> Path:
    """The weight file in a model folder, or in a folder of a checkpoint published by MAR."""
    published = folder / PUBLISHED_FILE
    if published.is_file() and not (folder / CONFIG_FILE).is_file():
        return published
    require_architecture(folder, config, name)
    path = folder / MODEL_FILE
    if not path.is_file():
        raise WeightsError(f"{MODEL_KEY}={folder} has no {MODEL_FILE}; write the folder again.")
    return path


def load_kl_autoencoder(weights: str | None) -> KLAutoencoder:
    """Load an AutoencoderKL on the CPU, in evaluation mode.

    Args:
        weights: one of three sources.
            1. A KL-16 file: ``kl16.ckpt`` as published, or a .safetensors file with KL-16 or diffusers names.
            2. A folder or Hub repository with a diffusers AutoencoderKL of any size, there or in ``vae/``.
            3. "random": KL-16 with random weights.

    Raises:
        WeightsError: the weights are missing, damaged or not of an autoencoder.
    """
    path = locate(weights, AUTOENCODER_KEY, AUTOENCODER_HUB_FILES)
    if path is not None and path.is_dir():
        return _load_vae_folder(path)
    with torch.device("meta"):
        vae = kl16_autoencoder()
    if path is None:
        fill_randomly(vae.to_empty(device="cpu"))
        return KLAutoencoder(vae).eval()
    state = _kl16_tensors(path)
    require_fit(vae, state, f"{AUTOENCODER_KEY}={path} does not fit KL-16")
    vae.to_empty(device="cpu").load_state_dict(state)
    return KLAutoencoder(vae).eval()


def _kl16_tensors(path: Path) -> dict[str, Tensor]:
    state = read_tensors(path, AUTOENCODER_KEY)
    if "class_emb.weight" in state:
        raise WeightsError(
            f"{AUTOENCODER_KEY}={path} holds a MAR model, not an autoencoder; use the published kl16.ckpt, a "
            "folder or Hub repository with a vae, or random."
        )
    return diffusers_names(state) if has_latent_diffusion_names(state) else state


def _load_vae_folder(folder: Path) -> KLAutoencoder:
    from diffusers import AutoencoderKL

    folder = _vae_folder(folder)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(json.loads((folder / CONFIG_FILE).read_text()))
    path = folder / VAE_FILE
    if not path.is_file():
        raise WeightsError(f"{AUTOENCODER_KEY}={folder} has no {VAE_FILE}; write the folder again.")
    state = read_tensors(path, AUTOENCODER_KEY)
    require_fit(vae, state, f"{AUTOENCODER_KEY}={path} does not fit its {CONFIG_FILE}")
    vae.to_empty(device="cpu").load_state_dict(state)
    return KLAutoencoder(vae).eval()


def _vae_folder(folder: Path) -> Path:
    """The ``vae/`` of a model folder, or the folder itself if it holds an autoencoder."""
    for candidate in (folder / VAE_FOLDER, folder):
        path = candidate / CONFIG_FILE
        try:
            if path.is_file() and json.loads(path.read_text()).get("_class_name") == VAE_CLASS:
                return candidate
        except (ValueError, AttributeError) as error:
            raise WeightsError(
                f"{AUTOENCODER_KEY}: {path} is not a config of an {VAE_CLASS}; write it again."
            ) from error
    raise WeightsError(
        f"{AUTOENCODER_KEY}={folder} has no {VAE_FOLDER} with an {VAE_CLASS}; use the published kl16.ckpt, "
        "a folder or Hub repository with a vae, or random."
    )
