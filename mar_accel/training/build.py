"""Build the network to train and its conditioner from a member of the group ``model``."""

from __future__ import annotations

from mar_accel.config.settings import ModelSettings
from mar_accel.inference.build import build_architecture
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.training.conditioning import Conditioner, LabelConditioner, TextConditioner


def build_trained(model: ModelSettings) -> tuple[MAR | LightGen, Conditioner]:
    """Network and conditioner with random weights; both are trained."""
    architecture = build_architecture(model)
    if isinstance(architecture, LightGenConfig):
        encoder = make_t5_encoder(T5Size(**(model.text_encoder or {})))
        return LightGen(architecture), TextConditioner(encoder)
    return MAR(architecture), LabelConditioner()
