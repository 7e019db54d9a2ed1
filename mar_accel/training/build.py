"""Build the network to train and its conditioner from a member of the group ``model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mar_accel.config.settings import ModelSettings
from mar_accel.errors import WeightsError
from mar_accel.inference.build import build_architecture
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR
from mar_accel.models.sizes import check_memory
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.training.conditioning import Conditioner, LabelConditioner, TextConditioner
from mar_accel.weights.folder import MODEL_FILE
from mar_accel.weights.text_folder import load_text_model

# Weights, averaged weights, gradients and the two moments of AdamW.
TRAINING_COPIES = 5


def build_trained(model: ModelSettings) -> tuple[MAR | LightGen, Conditioner]:
    """Network and conditioner with random weights; both are trained."""
    architecture = build_architecture(model)
    kind: Any = LightGen if isinstance(architecture, LightGenConfig) else MAR
    with torch.device("meta"):
        check_memory(kind(architecture), copies=TRAINING_COPIES)
    if isinstance(architecture, LightGenConfig):
        encoder = make_t5_encoder(T5Size(**(model.text_encoder or {})))
        return LightGen(architecture), TextConditioner(encoder)
    return MAR(architecture), LabelConditioner()


def load_initial(network: MAR | LightGen, conditioner: Conditioner, folder: Path) -> None:
    """Load the weights of a model folder into network and conditioner, in place.

    Raises:
        WeightsError: the folder is missing or has another architecture.
    """
    try:
        network.load_state_dict(load_file(folder / MODEL_FILE))
        if isinstance(conditioner, TextConditioner):
            conditioner.encoder.load_state_dict(load_text_model(folder)[1].state_dict())
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"training.initial_weights={folder} does not fit ({str(error).splitlines()[-1].strip()}); use a "
            "model folder of the same architecture or null."
        ) from error
