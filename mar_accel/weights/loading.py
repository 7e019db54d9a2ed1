"""Load models and autoencoders with the weights that a config names."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import KLAutoencoder
from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.families import make_network
from mar_accel.models.kl16 import diffusers_names, has_latent_diffusion_names, kl16_autoencoder
from mar_accel.models.sd3_vae import sd3_autoencoder
from mar_accel.models.sizes import check_memory
from mar_accel.weights.autoencoder_folder import CLASS_NAMES, KL, VAE_FILE, VAE_FOLDER, find_autoencoder
from mar_accel.weights.diffusers_folder import load_below
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.folder import MODEL_FILE, TEXT_ENCODER_FOLDER, read_description
from mar_accel.weights.json_config import CONFIG_FILE
from mar_accel.weights.random_weights import fill_randomly
from mar_accel.weights.sources import locate

MODEL_KEY = "model.weights"
AUTOENCODER_KEY = "model.autoencoder.weights"
MODEL_HUB_FILES = (CONFIG_FILE, MODEL_FILE)
AUTOENCODER_HUB_FILES = (CONFIG_FILE, VAE_FILE, f"{VAE_FOLDER}/{CONFIG_FILE}", f"{VAE_FOLDER}/{VAE_FILE}")
# Files of DeTok's tokenizer as published, in the order of preference, and the statistics of its latents.
DETOK_TOKENIZERS = ("detok-BB-gamm3.0-m0.7-decoder_tuned.pth", "detok-BB-gamm3.0-m0.7.pth")
DETOK_STATISTICS = "stats.pkl"
DETOK_FILES = (*DETOK_TOKENIZERS, DETOK_STATISTICS)
LAYOUTS = {
    "kl16": ("KL-16", kl16_autoencoder),
    "sd3": ("the autoencoder of Stable Diffusion 3.5", sd3_autoencoder),
}
PUBLISHED_FILE = "checkpoint-last.pth"
_LOG = logging.getLogger(__name__)


def load_mar(config: BackboneConfig, weights: str | None, name: str, ema: bool = True) -> TokenBackbone:
    """Load a masked autoregressive model of any family on the CPU, in float32 and evaluation mode.

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
        model = make_network(config)
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


def require_architecture(folder: Path, config: BackboneConfig, name: str) -> None:
    """Raise WeightsError if the model in a folder has another architecture.

    The shapes of the weights alone would not reveal every difference.
    """
    held = read_description(folder, MODEL_KEY)
    theirs, ours = asdict(held.architecture), asdict(config)
    # Dropout only matters in training. Models with a train_grid interpolate its positions to any grid.
    free = ("dropout", "grid") if "train_grid" in ours else ("dropout",)
    different = [key for key in ours if theirs.get(key) != ours[key] and key not in free]
    if different:
        values = ", ".join(f"{key} is {theirs.get(key)}, not {ours[key]}" for key in different)
        advice = f"use model={held.name}" if held.name != name else "change model.architecture to match"
        raise WeightsError(
            f"{MODEL_KEY}={folder} holds {held.name}, which does not fit model={name}: {values}; {advice}."
        )


def _model_file(folder: Path, config: BackboneConfig, name: str) -> Path:
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
        files = [_weight_file(folder), folder / TEXT_ENCODER_FOLDER / MODEL_FILE]
    else:
        files = _autoencoder_files(folder)
    return [file for file in files if file.is_file()]


def _autoencoder_files(folder: Path) -> list[Path]:
    """Those of an autoencoder of any kind, or those that DeTok has published."""
    for kind in CLASS_NAMES:
        try:
            vae = find_autoencoder(folder, kind, AUTOENCODER_KEY)
        except WeightsError:
            return []
        if vae is not None:
            return [vae / CONFIG_FILE, vae / VAE_FILE]
    return [folder / VAE_FILE, *(folder / name for name in DETOK_FILES)]


def load_kl_autoencoder(weights: str | None, layout: Literal["kl16", "sd3"] = "kl16") -> KLAutoencoder:
    """Load an AutoencoderKL on the CPU, in evaluation mode.

    Args:
        weights: one of three sources.
            1. A file: ``kl16.ckpt`` as published, or a .safetensors file with KL-16 or diffusers names.
            2. A folder or Hub repository with a diffusers AutoencoderKL of any size, there or in ``vae/``.
            3. "random": random weights.
        layout: layers of a file and of random weights: "kl16" (MAR) or "sd3" (Stable Diffusion 3.5).

    Raises:
        WeightsError: the weights are missing, damaged or not of an autoencoder.
    """
    path = locate(weights, AUTOENCODER_KEY, AUTOENCODER_HUB_FILES)
    if path is not None and path.is_dir():
        advice = "use the published kl16.ckpt, a folder or Hub repository with a vae, or random"
        return KLAutoencoder(load_below(path, KL, AUTOENCODER_KEY, advice)).eval()
    name, make = LAYOUTS[layout]
    with torch.device("meta"):
        vae = make()
    if path is None:
        fill_randomly(vae.to_empty(device="cpu"))
        return KLAutoencoder(vae).eval()
    state = _kl16_tensors(path)
    require_fit(vae, state, f"{AUTOENCODER_KEY}={path} does not fit {name}")
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
