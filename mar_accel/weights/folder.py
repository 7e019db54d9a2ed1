"""Model folders: ``config.json``, ``model.safetensors``, and ``vae/`` or ``text_encoder/`` if needed."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mar_accel import __version__
from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.families import FAMILIES
from mar_accel.weights.autoencoder_folder import KINDS, KL, PIXEL, VAE_FOLDER, kind_of, save_autoencoder
from mar_accel.weights.json_config import CONFIG_FILE, read_config

MODEL_FILE = "model.safetensors"
TEXT_ENCODER_FOLDER = "text_encoder"


@dataclass(frozen=True)
class ModelDescription:
    """Contents of ``config.json``.

    Attributes:
        name: name of the model, as ``model.name`` in the configs.
        architecture: sizes of the model.
        autoencoder: kind of the autoencoder: "pixel", "cosine", "kl", "dc" or "detok".
        sampling: defaults for samplers and caches by name, as ``model.sampling`` in the configs.
    """

    name: str
    architecture: BackboneConfig
    autoencoder: str
    sampling: dict[str, Any] = field(default_factory=dict)


def save_model_folder(
    path: str | Path,
    model: TokenBackbone,
    autoencoder: Autoencoder | None = None,
    *,
    name: str,
    sampling: Mapping[str, Any],
    text_encoder: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    autoencoder_kind: str | None = None,
) -> Path:
    """Write a model folder for ``model.weights=PATH`` and ``MARPipeline.from_pretrained(PATH)``.

    All files are first written to a temporary folder inside the folder and then moved.
    So an interrupted call leaves no half-written model.
    Files with the same names are replaced; other files stay.

    Args:
        path: the folder; created if it does not exist.
        model: the model; its weights are saved as they are.
        autoencoder: a PixelAutoencoder or CosineAutoencoder; or a KLAutoencoder, DCAutoencoder or
            DeTokAutoencoder, which is saved in ``vae/``. None: no ``vae/`` is written, and readers must set
            the autoencoder themselves.
        name: name of the model, as in ``conf/model``.
        sampling: sampling defaults of the model, as in ``conf/model``.
        text_encoder: text encoder of a text-to-image model, a transformers model, saved in ``text_encoder/``.
        dtype: dtype of the saved weights. None: unchanged.
        autoencoder_kind: kind of an autoencoder that is not given: "pixel", "cosine", "kl", "dc" or "detok".
            None: "pixel" for latents with 1 or 3 channels, else "kl".

    Returns:
        The folder.

    Raises:
        WeightsError: the folder cannot be written, or this kind of autoencoder cannot be saved.

    Example:
        >>> save_model_folder("my_model", model, PixelAutoencoder(), name="my_model", sampling={})
    """
    path = Path(path)
    if autoencoder is not None:
        autoencoder_kind = kind_of(autoencoder)
    elif autoencoder_kind is None:
        autoencoder_kind = PIXEL if model.config.latent_channels in (1, 3) else KL
    record = {
        "_class_name": type(model).__name__,
        "mar_accel_version": __version__,
        "name": name,
        "architecture": asdict(model.config),
        "autoencoder": autoencoder_kind,
        "sampling": dict(sampling),
    }
    # Inside the folder, which may be a mount point: files cannot be moved from another file system.
    temporary, is_new = path / f".{os.getpid()}.tmp", not path.exists()
    try:
        temporary.mkdir(parents=True)
        tensors = {
            # A copy, since two names may share one parameter, which the format does not know.
            key: value.detach().to("cpu", dtype, copy=True).contiguous()
            for key, value in model.state_dict().items()
        }
        save_file(tensors, temporary / MODEL_FILE, metadata={"format": "pt"})
        if autoencoder is not None:
            save_autoencoder(autoencoder, temporary / VAE_FOLDER, dtype)
        if text_encoder is not None:
            # save_pretrained keeps the dtype of the weights.
            converted: Any = copy.deepcopy(text_encoder).to("cpu", dtype)
            converted.save_pretrained(temporary / TEXT_ENCODER_FOLDER)
        (temporary / CONFIG_FILE).write_text(json.dumps(record, indent=2) + "\n")
        _put_into_place(temporary, path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written ({error.strerror}); choose a folder with write permission."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it has files
                path.rmdir()
    return path


def _put_into_place(source: Path, target: Path) -> None:
    """Move all files to the target, replacing existing ones.

    The config is moved last, since only a folder with a config counts as a model.
    """
    files = sorted(source.rglob("*"), key=lambda file: file == source / CONFIG_FILE)
    for file in files:
        if file.is_file():
            destination = target / file.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            # safetensors creates files that only their owner can read.
            shutil.copymode(source / CONFIG_FILE, file)
            os.replace(file, destination)


def read_description(folder: Path, key: str) -> ModelDescription:
    """Read ``config.json`` of a folder; raises WeightsError if it is missing or invalid.

    Args:
        folder: the model folder.
        key: config key that named the folder, for messages.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(
            f"{key}={folder} has no {CONFIG_FILE}; use a folder written by python -m mar_accel.convert or "
            "save_pretrained, or a weight file."
        )
    try:
        record = read_config(path)
        return ModelDescription(
            name=str(record["name"]),
            architecture=FAMILIES[record["_class_name"]][0](**record["architecture"]),
            autoencoder={kind: kind for kind in KINDS}[record["autoencoder"]],
            sampling=dict(record["sampling"]),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"{key}: {path} does not describe a MAR model ({type(error).__name__}: {error}); write the "
            "folder again with python -m mar_accel.convert."
        ) from error
