"""The ``vae/`` of a model folder: kinds of autoencoders, and how each one is written."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import Autoencoder, DCAutoencoder, KLAutoencoder, PixelAutoencoder
from mar_accel.models.cosine import CosineAutoencoder
from mar_accel.models.detok import DeTokAutoencoder
from mar_accel.weights.json_config import CONFIG_FILE, read_config

VAE_FOLDER = "vae"
VAE_FILE = "diffusion_pytorch_model.safetensors"
# Names of autoencoders in config.json. For safety, a folder never names a class to import.
PIXEL, COSINE, KL, DC, DETOK = "pixel", "cosine", "kl", "dc", "detok"
KINDS: dict[str, type[Autoencoder]] = {
    PIXEL: PixelAutoencoder,
    COSINE: CosineAutoencoder,
    KL: KLAutoencoder,
    DC: DCAutoencoder,
    DETOK: DeTokAutoencoder,
}
# Those without weights.
FIXED = (PIXEL, COSINE)
# What the config in vae/ calls them; diffusers' names where diffusers reads the folder.
CLASS_NAMES = {KL: "AutoencoderKL", DC: "AutoencoderDC", DETOK: "DeTok"}
# Statistics of DeTok's latents, beside the tensors of the tokenizer.
STATISTICS = ("mean", "std")


def kind_of(autoencoder: Autoencoder) -> str:
    """The name of an autoencoder's kind; raises WeightsError if it cannot be saved."""
    for kind, made in KINDS.items():
        if isinstance(autoencoder, made):
            return kind
    names = ", ".join(made.__name__ for made in KINDS.values())
    raise WeightsError(
        f"autoencoder must be one of {names} to be saved, got a {type(autoencoder).__name__}; save the model "
        "with autoencoder=None."
    )


def save_autoencoder(autoencoder: Autoencoder, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write an autoencoder with all that decoding needs; nothing for the FIXED ones.

    Args:
        autoencoder: one of the KINDS.
        folder: the ``vae/`` to write.
        dtype: dtype of the saved weights. None: unchanged. Statistics of latents stay float32.
    """
    if isinstance(autoencoder, KLAutoencoder):
        _saved_dtype(autoencoder.vae, dtype).save_pretrained(folder)
    elif isinstance(autoencoder, DCAutoencoder):
        _saved_dtype(autoencoder.dc, dtype).save_pretrained(folder)
    elif isinstance(autoencoder, DeTokAutoencoder):
        _save_detok(autoencoder, folder, dtype)


def _saved_dtype(network: Any, dtype: torch.dtype | None) -> Any:
    return network if dtype is None else copy.deepcopy(network).to("cpu", dtype)


def _save_detok(autoencoder: DeTokAutoencoder, folder: Path, dtype: torch.dtype | None) -> None:
    folder.mkdir(parents=True)
    tokenizer = autoencoder.tokenizer
    tensors = {
        key: value.detach().to("cpu", dtype, copy=True).contiguous()
        for key, value in tokenizer.state_dict().items()
    }
    for name in STATISTICS:
        tensors[name] = getattr(autoencoder, name).detach().to("cpu", torch.float32).flatten().clone()
    save_file(tensors, folder / VAE_FILE, metadata={"format": "pt"})
    record = {"_class_name": CLASS_NAMES[DETOK], **asdict(tokenizer.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n")


def find_autoencoder(folder: Path, kind: str, key: str) -> Path | None:
    """The ``vae/`` of a model folder, or the folder itself, if it holds an autoencoder of this kind.

    Args:
        folder: the folder.
        kind: KL, DC or DETOK.
        key: config key that named the folder, for messages.

    Raises:
        WeightsError: a config there cannot be read.
    """
    for candidate in (folder / VAE_FOLDER, folder):
        path = candidate / CONFIG_FILE
        try:
            if path.is_file() and read_config(path).get("_class_name") == CLASS_NAMES[kind]:
                return candidate
        except (ValueError, OSError) as error:
            raise WeightsError(
                f"{key}: {path} is not a config of an {CLASS_NAMES[kind]}; write it again."
            ) from error
    return None
