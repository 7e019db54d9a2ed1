"""Model folders: ``config.json``, ``model.safetensors`` and, for latent models, diffusers' ``vae/``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mar_accel import __version__
from mar_accel.errors import WeightsError
from mar_accel.models.autoencoders import Autoencoder, KLAutoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR, MARConfig

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
VAE_FOLDER = "vae"
VAE_FILE = "diffusion_pytorch_model.safetensors"
# Names in config.json; a folder never names a class to import.
PIXEL, KL = "pixel", "kl"


@dataclass(frozen=True)
class ModelDescription:
    """What ``config.json`` says of a model.

    Attributes:
        name: of the model, as ``model.name`` in the configs.
        architecture: its sizes.
        autoencoder: "pixel" or "kl".
        sampling: what samplers and caches use unless told otherwise, by name; as ``model.sampling``.
    """

    name: str
    architecture: MARConfig
    autoencoder: str
    sampling: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        record = {"_class_name": "MAR", "mar_accel_version": __version__, **asdict(self)}
        return json.dumps(record, indent=2) + "\n"


def save_model_folder(
    path: str | Path,
    model: MAR,
    autoencoder: Autoencoder | None = None,
    *,
    name: str,
    sampling: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a folder that ``model.weights=PATH`` and ``MARPipeline.from_pretrained(PATH)`` read.

    Everything is written beside the folder first and then put into place: an interrupted call leaves no
    half-written model. Files of the same names are replaced, others stay.

    Args:
        path: the folder; made if it does not exist.
        model: the weights as they are (hand in the averaged ones where there are any).
        autoencoder: a PixelAutoencoder, or a KLAutoencoder, whose weights are saved in ``vae/``. None: the
            folder has no ``vae/``, and readers must be told where the autoencoder is, unless the model's
            latents have a single channel or three (pixels).
        name, sampling: as in ``conf/model``: what the model is called, and its sampling defaults.
        dtype: of the saved weights; None: as they are.

    Returns:
        The folder.

    Raises:
        WeightsError: the folder cannot be written, or the autoencoder is of a kind that folders do not know.
    """
    path = Path(path)
    kind = _autoencoder_kind(autoencoder, model)
    description = ModelDescription(name, model.config, kind, dict(sampling))
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        tensors = {
            key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()
        }
        save_file(tensors, temporary / MODEL_FILE, metadata={"format": "pt"})
        if isinstance(autoencoder, KLAutoencoder):
            autoencoder.vae.save_pretrained(temporary / VAE_FOLDER)
        (temporary / CONFIG_FILE).write_text(description.to_json())
        _put_into_place(temporary, path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _autoencoder_kind(autoencoder: Autoencoder | None, model: MAR) -> str:
    if autoencoder is None:
        return PIXEL if model.config.latent_channels in (1, 3) else KL
    if isinstance(autoencoder, PixelAutoencoder):
        return PIXEL
    if isinstance(autoencoder, KLAutoencoder):
        return KL
    raise WeightsError(
        f"A {type(autoencoder).__name__} cannot be kept in a model folder; use a PixelAutoencoder or a "
        "KLAutoencoder."
    )


def _put_into_place(source: Path, target: Path) -> None:
    """Move files over those of the same names, the config last: it is what makes a folder a model."""
    files = sorted(source.rglob("*"), key=lambda file: file == source / CONFIG_FILE)
    for file in files:
        if file.is_file():
            destination = target / file.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            # safetensors writes files that their owner alone can read.
            shutil.copymode(source / CONFIG_FILE, file)
            os.replace(file, destination)


def read_description(folder: Path, key: str) -> ModelDescription:
    """What the folder's ``config.json`` says; raises WeightsError where it is missing or of another kind."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(
            f"{key}: {folder} has no {CONFIG_FILE}; give a folder that python -m mar_accel.convert or "
            "save_pretrained wrote, or a weight file."
        )
    try:
        record = json.loads(path.read_text())
        return ModelDescription(
            name=str(record["name"]),
            architecture=MARConfig(**record["architecture"]),
            autoencoder={PIXEL: PIXEL, KL: KL}[record["autoencoder"]],
            sampling=dict(record["sampling"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{key}: {path} does not describe a MAR model ({type(error).__name__}: {error}); write the "
            "folder again with python -m mar_accel.convert."
        ) from error
