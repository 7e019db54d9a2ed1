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
from mar_accel.models.autoencoders import Autoencoder, KLAutoencoder, PixelAutoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.mar import MARConfig

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
VAE_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "text_encoder"
MAX_CONFIG_BYTES = 1_000_000
VAE_FILE = "diffusion_pytorch_model.safetensors"
# Names of autoencoders in config.json. For safety, a folder never names a class to import.
PIXEL, KL = "pixel", "kl"


@dataclass(frozen=True)
class ModelDescription:
    """Contents of ``config.json``.

    Attributes:
        name: name of the model, as ``model.name`` in the configs.
        architecture: sizes of the model.
        autoencoder: "pixel" or "kl".
        sampling: defaults for samplers and caches by name, as ``model.sampling`` in the configs.
    """

    name: str
    architecture: MARConfig
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
) -> Path:
    """Write a model folder for ``model.weights=PATH`` and ``MARPipeline.from_pretrained(PATH)``.

    All files are first written to a temporary folder inside the folder and then moved.
    So an interrupted call leaves no half-written model.
    Files with the same names are replaced; other files stay.

    Args:
        path: the folder; created if it does not exist.
        model: the model; its weights are saved as they are.
        autoencoder: a PixelAutoencoder, or a KLAutoencoder, whose weights are saved in ``vae/``.
            None: no ``vae/`` is written.
            Without it, latents with 1 or 3 channels count as pixels.
            For other latents, readers must set the autoencoder themselves.
        name: name of the model, as in ``conf/model``.
        sampling: sampling defaults of the model, as in ``conf/model``.
        text_encoder: text encoder of a text-to-image model, a transformers model, saved in ``text_encoder/``.
        dtype: dtype of the saved weights. None: unchanged.

    Returns:
        The folder.

    Raises:
        WeightsError: the folder cannot be written, or this kind of autoencoder cannot be saved.

    Example:
        >>> save_model_folder("my_model", model, PixelAutoencoder(), name="my_model", sampling={})
    """
    path = Path(path)
    kind = _autoencoder_kind(autoencoder, model)
    record = {
        "_class_name": type(model).__name__,
        "mar_accel_version": __version__,
        "name": name,
        "architecture": asdict(model.config),
        "autoencoder": kind,
        "sampling": dict(sampling),
    }
    # Inside the folder, which may be a mount point: files cannot be moved from another file system.
    temporary, is_new = path / f".{os.getpid()}.tmp", not path.exists()
    try:
        temporary.mkdir(parents=True)
        tensors = {
            key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()
        }
        save_file(tensors, temporary / MODEL_FILE, metadata={"format": "pt"})
        if isinstance(autoencoder, KLAutoencoder):
            autoencoder.vae.save_pretrained(temporary / VAE_FOLDER)
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


def _autoencoder_kind(autoencoder: Autoencoder | None, model: TokenBackbone) -> str:
    if autoencoder is None:
        return PIXEL if model.config.latent_channels in (1, 3) else KL
    if isinstance(autoencoder, PixelAutoencoder):
        return PIXEL
    if isinstance(autoencoder, KLAutoencoder):
        return KL
    raise WeightsError(
        "autoencoder must be a PixelAutoencoder or a KLAutoencoder to be saved, "
        f"got a {type(autoencoder).__name__}."
    )


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


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a ``config.json``.

    Raises:
        ValueError: the file is too large, or is not a JSON object.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"it has more than {MAX_CONFIG_BYTES:,} bytes")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    return record


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
            architecture=MARConfig(**record["architecture"]),
            autoencoder={PIXEL: PIXEL, KL: KL}[record["autoencoder"]],
            sampling=dict(record["sampling"]),
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(
            f"{key}: {path} does not describe a MAR model ({type(error).__name__}: {error}); write the "
            "folder again with python -m mar_accel.convert."
        ) from error
