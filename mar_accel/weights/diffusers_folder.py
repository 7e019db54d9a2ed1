"""Autoencoders of diffusers from a folder: its config is judged before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mar_accel.errors import WeightsError
from mar_accel.models.sizes import MAX_SIZE
from mar_accel.weights.autoencoder_folder import CLASS_NAMES, KL, VAE_FILE, VAE_FOLDER, find_autoencoder
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.json_config import CONFIG_FILE, read_config


def load_below(path: Path, kind: str, key: str, advice: str) -> Any:
    """The autoencoder in ``vae/`` of a folder, or in the folder itself, as :func:`load_from_folder`.

    Args:
        path: the folder.
        kind, key: as below.
        advice: what to do if there is none, for the message.

    Raises:
        WeightsError: there is none, or a file is damaged.
    """
    folder = find_autoencoder(path, kind, key)
    if folder is None:
        raise WeightsError(f"{key}={path} has no {VAE_FOLDER} with an {CLASS_NAMES[kind]}; {advice}.")
    return load_from_folder(folder, kind, key)


def load_from_folder(folder: Path, kind: str, key: str) -> Any:
    """The AutoencoderKL or AutoencoderDC of a folder, of any size, on the CPU in float32.

    Args:
        folder: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        kind: KL or DC.
        key: config key that named the folder, for messages.

    Raises:
        WeightsError: a file is missing, damaged or of another autoencoder.
    """
    path = folder / VAE_FILE
    if not path.is_file():
        raise WeightsError(f"{key}={folder} has no {VAE_FILE}; write the folder again.")
    state = read_tensors(path, key).tensors
    network = _build(folder / CONFIG_FILE, kind, key, num_tensors=len(state))
    require_fit(network, state, f"{key}={path} does not fit its {CONFIG_FILE}")
    network.to_empty(device="cpu").load_state_dict(state)
    return network


def _build(path: Path, kind: str, key: str, num_tensors: int) -> Any:
    """The autoencoder of a config, without storage.

    Args:
        path: the config.
        kind, key: as above.
        num_tensors: number of tensors in the weight file. Each layer has some, so more layers than
            tensors cannot fit, and would take hours to build.
    """
    import diffusers

    config = read_config(path)
    try:
        _check_sizes(config, kind, num_tensors)
        with torch.device("meta"):
            network = getattr(diffusers, CLASS_NAMES[kind]).from_config(config)
        _check_scaling(network.config)
        return network
    except Exception as error:  # diffusers checks nothing, so that a wrong value may fail anywhere
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise WeightsError(
            f"{key}: {path} does not describe an {CLASS_NAMES[kind]} ({type(error).__name__}: {reason}); "
            "write it again."
        ) from error


def _check_sizes(config: Mapping[str, Any], kind: str, num_tensors: int) -> None:
    """Raise ValueError for numbers of layers and channels that no file of weights could fill."""
    if kind == KL:
        channels = config.get("block_out_channels", [])
        layers = [config.get("layers_per_block", 1)] * max(1, len(channels))
        names, least = ("layers_per_block", "block_out_channels"), 1
    else:
        layers, channels = (
            [value for side in ("encoder", "decoder") for value in config.get(f"{side}_{name}", [])]
            for name in ("layers_per_block", "block_out_channels")
        )
        names, least = ("encoder_layers_per_block", "encoder_block_out_channels"), 0
    if any(isinstance(value, (str, bool)) for value in (*layers, *channels)) or (
        any(value < least for value in layers) or any(not 1 <= value <= MAX_SIZE for value in channels)
    ):
        raise ValueError(f"{names[0]}={layers} and {names[1]}={channels} must be ≥ {least} and ≥ 1")
    if sum(layers) > num_tensors:
        raise ValueError(f"it has more layers than its {num_tensors} tensors")


def _check_scaling(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless the numbers that latents are scaled with are numbers."""
    for name, lowest in (("scaling_factor", 0.0), ("shift_factor", -math.inf)):
        value: Any = config.get(name)
        optional = name == "shift_factor" and value is None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not optional and not (is_number and math.isfinite(value) and value > lowest):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
