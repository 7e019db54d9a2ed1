"""The network to train, and what it is conditioned on, from a member of the group ``model``."""

from __future__ import annotations

from omegaconf import DictConfig

from mar_accel.inference.build import build_architecture, build_part
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.models.text_encoder import T5Size, make_t5_encoder
from mar_accel.training.conditioning import Conditioner, LabelConditioner, TextConditioner


def trained_architecture(model: DictConfig) -> MARConfig | LightGenConfig:
    """The architecture that a member of the group ``model`` describes, MAR's unless it names another."""
    if "_target_" in model.architecture:
        return build_part(model.architecture)
    return build_architecture(model)


def build_trained(model: DictConfig) -> tuple[MAR | LightGen, Conditioner]:
    """Network and conditioner with random weights, both to be trained."""
    architecture = trained_architecture(model)
    if isinstance(architecture, LightGenConfig):
        encoder = make_t5_encoder(T5Size(**model.text_encoder))
        return LightGen(architecture), TextConditioner(encoder)
    return MAR(architecture), LabelConditioner()
