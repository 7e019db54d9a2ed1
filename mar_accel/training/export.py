"""Export a training checkpoint as a model folder with a model card."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mar_accel.config.settings import ModelSettings
from mar_accel.errors import WeightsError
from mar_accel.inference.build import build_autoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.training.build import build_trained
from mar_accel.training.conditioning import TextConditioner
from mar_accel.weights.folder import save_model_folder


def export_weights(
    checkpoint: Path,
    model: ModelSettings,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    averaged: bool = True,
) -> Path:
    """Write the weights of a training checkpoint as a model folder.

    Args:
        checkpoint: a checkpoint of :class:`lightning.pytorch.callbacks.EMAWeightAveraging`.
            ``state_dict`` holds the averaged weights, ``current_model_state`` the current ones.
        model: settings of the model: architecture, name, sampling defaults and autoencoder.
        folder: the folder to write; files with the same names are replaced.
        dtype: dtype of the saved weights.
        averaged: whether to write the averaged weights, or the current ones.

    Raises:
        WeightsError: the checkpoint has another architecture.
    """
    entry = "state_dict" if averaged else "current_model_state"
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)[entry]
    parts = dict(zip(("model", "conditioner"), build_trained(model), strict=True))
    # The other losses have layers of their own, which are not part of the model.
    state = {name: value for name, value in state.items() if name.split(".")[0] in parts}
    trained = nn.ModuleDict(parts).eval()
    try:
        trained.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise WeightsError(
            f"{checkpoint} was trained with another architecture ({reason}); set model.architecture to it."
        ) from error
    conditioner = trained["conditioner"]
    return save_model_folder(
        folder,
        cast("TokenBackbone", trained["model"]),
        build_autoencoder(model),
        name=model.name,
        sampling=model.sampling,
        text_encoder=conditioner.encoder if isinstance(conditioner, TextConditioner) else None,
        dtype=dtype,
    )


def write_model_card(folder: Path, record: dict[str, Any]) -> None:
    """Write ``README.md``, which states how the weights were trained and how to sample them.

    Args:
        folder: the model folder.
        record: content of the training's run.json.
    """
    config, versions = record["config"], record["versions"]
    training = config["training"]
    overrides = record["overrides"] or []
    command = shlex.join(["python", "-m", "mar_accel.train", *_without_paths(overrides)])
    facts = {
        "Steps": record["steps"],
        "Images per step": training["batch_size"] * (record["num_processes"] or 1),
        "Seed": record["seed"],
        "Averaging (EMA)": training["ema_decay"],
        "Learning rate": f"{training['learning_rate']:g}",
        "Warm-up steps": training["warmup_steps"],
        "Decay steps": round(training["decay_fraction"] * training["max_steps"]),
        "Labels dropped": f"{training['label_drop']:.0%}",
        "Revision": record["git_revision"] or "unknown",
        "Versions": ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "lightning")),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    name = config["model"]["name"]
    (folder / "README.md").write_text(
        f"# {name}\n\nA masked autoregressive model, trained on `{config['dataset']['name']}` with\n\n"
        f"```\n{command}\n```\n\n| | |\n|---|---|\n{table}\n\n"
        f"Sample it: `python -m mar_accel.generate model={name} model.weights=FOLDER`\n"
    )


def _without_paths(overrides: list[str]) -> list[str]:
    """The overrides without local paths."""
    return [
        override for override in overrides if not override.startswith(("output_dir=", "training.resume="))
    ]
