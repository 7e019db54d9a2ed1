"""Load models and autoencoders with the weights that a config names."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.kl16 import diffusers_names, has_latent_diffusion_names, kl16_autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.models.sizes import MAX_SIZE, check_memory
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.folder import (
    CONFIG_FILE,
    MODEL_FILE,
    VAE_FILE,
    VAE_FOLDER,
    read_config,
    read_description,
)
from mar_accel.weights.random_weights import fill_randomly
from mar_accel.weights.sources import locate

MODEL_KEY = "model.weights"
AUTOENCODER_KEY = "model.autoencoder.weights"
MODEL_HUB_FILES = (CONFIG_FILE, MODEL_FILE)
AUTOENCODER_HUB_FILES = (CONFIG_FILE, VAE_FILE, f"{VAE_FOLDER}/{CONFIG_FILE}", f"{VAE_FOLDER}/{VAE_FILE}")
VAE_CLASS = "AutoencoderKL"
PUBLISHED_FILE = "checkpoint-last.pth"
_LOG = logging.getLogger(__name__)


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
    require_fit(model, state.tensors, f"{MODEL_KEY}={path} does not fit model={name}")
    model.to_empty(device="cpu").load_state_dict(state.tensors)
    model.weights_entry = state.entry
    if state.entry is not None:
        _LOG.info("%s=%s: the weights are those of its entry %s", MODEL_KEY, path, state.entry)
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
    path = _weight_file(folder)
    if path.name == PUBLISHED_FILE:
        return path
    require_architecture(folder, config, name)
    if not path.is_file():
        raise WeightsError(f"{MODEL_KEY}={folder} has no {MODEL_FILE}; write the folder again.")
    return path


def _weight_file(folder: Path) -> Path:
    published = folder / PUBLISHED_FILE
    if published.is_file() and not (folder / CONFIG_FILE).is_file():
        return published
    return folder / MODEL_FILE


def files_read(folder: Path, key: str) -> list[Path]:
    """The files of a folder that ``load_mar`` or ``load_kl_autoencoder`` read weights and scales from.

    Args:
        folder: the folder.
        key: MODEL_KEY or AUTOENCODER_KEY.
    """
    if key == MODEL_KEY:
        # The config is compared with the settings, which count themselves.
        files = [_weight_file(folder)]
    else:
        try:
            vae = _vae_folder(folder)
        except WeightsError:
            return []
        files = [vae / CONFIG_FILE, vae / VAE_FILE]
    return [file for file in files if file.is_file()]


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
    state = read_tensors(path, AUTOENCODER_KEY).tensors
    if "class_emb.weight" in state:
        raise WeightsError(
            f"{AUTOENCODER_KEY}={path} holds a MAR model, not an autoencoder; use the published kl16.ckpt, a "
            "folder or Hub repository with a vae, or random."
        )
    return diffusers_names(state) if has_latent_diffusion_names(state) else state


def _load_vae_folder(folder: Path) -> KLAutoencoder:
    folder = _vae_folder(folder)
    path = folder / VAE_FILE
    if not path.is_file():
        raise WeightsError(f"{AUTOENCODER_KEY}={folder} has no {VAE_FILE}; write the folder again.")
    state = read_tensors(path, AUTOENCODER_KEY).tensors
    vae = _build_vae(folder / CONFIG_FILE, num_tensors=len(state))
    require_fit(vae, state, f"{AUTOENCODER_KEY}={path} does not fit its {CONFIG_FILE}")
    vae.to_empty(device="cpu").load_state_dict(state)
    return KLAutoencoder(vae).eval()


def _build_vae(path: Path, num_tensors: int) -> Any:
    """The AutoencoderKL of a config, without storage.

    Args:
        path: the config.
        num_tensors: number of tensors in the weight file. Each layer has some, so more layers than
            tensors cannot fit, and would take hours to build.
    """
    from diffusers import AutoencoderKL

    config = read_config(path)
    try:
        layers, channels = int(config.get("layers_per_block", 1)), config.get("block_out_channels", [])
        if layers * max(1, len(channels)) > num_tensors:
            raise ValueError(f"it has more layers than its {num_tensors} tensors")
        if any(isinstance(value, (str, bool)) or not 1 <= value <= MAX_SIZE for value in (layers, *channels)):
            raise ValueError(f"layers_per_block={layers} and block_out_channels={channels} must be ≥ 1")
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(config)
        return _checked_scaling(vae)
    except Exception as error:  # diffusers checks nothing, so that a wrong value may fail anywhere
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise WeightsError(
            f"{AUTOENCODER_KEY}: {path} does not describe an {VAE_CLASS} ({type(error).__name__}: {reason}); "
            "write it again."
        ) from error


def _checked_scaling(vae: Any) -> Any:
    """The autoencoder, if the numbers that latents are scaled with are numbers."""
    for name, lowest in (("scaling_factor", 0.0), ("shift_factor", -math.inf)):
        value = vae.config[name]
        optional = name == "shift_factor" and value is None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not optional and not (is_number and math.isfinite(value) and value > lowest):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
    return vae


def _vae_folder(folder: Path) -> Path:
    """The ``vae/`` of a model folder, or the folder itself if it holds an autoencoder."""
    for candidate in (folder / VAE_FOLDER, folder):
        path = candidate / CONFIG_FILE
        try:
            if path.is_file() and read_config(path).get("_class_name") == VAE_CLASS:
                return candidate
        except (ValueError, OSError) as error:
            raise WeightsError(
                f"{AUTOENCODER_KEY}: {path} is not a config of an {VAE_CLASS}; write it again."
            ) from error
    raise WeightsError(
        f"{AUTOENCODER_KEY}={folder} has no {VAE_FOLDER} with an {VAE_CLASS}; use the published kl16.ckpt, "
        "a folder or Hub repository with a vae, or random."
    )
