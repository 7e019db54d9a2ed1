"""Build the network to train and its conditioner from a member of the group ``model``."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mar_accel.config.check import check_arguments
from mar_accel.config.settings import ModelSettings
from mar_accel.errors import WeightsError
from mar_accel.inference.build import build_architecture
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.families import make_network
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.models.sizes import check_memory
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.models.word_encoder import WordEncoder
from mar_accel.training.conditioning import Conditioner, LabelConditioner, TextConditioner
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.folder import MODEL_FILE, TEXT_ENCODER_FOLDER
from mar_accel.weights.text_folder import load_text_encoder

# Weights, averaged weights, gradients and the two moments of AdamW.
TRAINING_COPIES = 5


def build_trained(model: ModelSettings) -> tuple[TokenBackbone, Conditioner]:
    """Network and conditioner with random weights; both are trained."""
    architecture, text_encoder = build_architecture(model), model.text_encoder or {}
    if isinstance(architecture, LightGenConfig):
        check_arguments("model.text_encoder", text_encoder, T5Size)
    with torch.device("meta"):
        check_memory(make_network(architecture), copies=TRAINING_COPIES)
    if isinstance(architecture, LightGenConfig):
        encoder = make_t5_encoder(T5Size(**text_encoder))
        # Refuses an encoder that has too few words.
        WordEncoder(encoder)
        return make_network(architecture), TextConditioner(encoder)
    return make_network(architecture), LabelConditioner()


def load_initial(network: TokenBackbone, conditioner: Conditioner, folder: Path) -> None:
    """Load the weights of a model folder into network and conditioner, in place.

    Raises:
        WeightsError: the folder is missing or has another architecture.
    """
    key, file = "training.initial_weights", folder / MODEL_FILE
    if not os.path.isfile(file):
        raise WeightsError(f"{key}={folder} has no {MODEL_FILE}; use a model folder or null.")
    state = read_tensors(file, key).tensors
    require_fit(network, state, f"{key}={folder} does not fit")
    network.load_state_dict(state)
    if isinstance(conditioner, TextConditioner):
        encoder = load_text_encoder(folder / TEXT_ENCODER_FOLDER, key)
        require_fit(conditioner.encoder, encoder.state_dict(), f"{key}={folder} does not fit")
        conditioner.encoder.load_state_dict(encoder.state_dict())
