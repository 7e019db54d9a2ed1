"""The families of models: which class of network belongs to which architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.models.mar import MAR, MARConfig

# By the name of the network, which model folders record.
FAMILIES: dict[str, tuple[type[BackboneConfig], type[TokenBackbone]]] = {
    "MAR": (MARConfig, MAR),
    "LightGen": (LightGenConfig, LightGen),
}


def make_network(config: BackboneConfig) -> TokenBackbone:
    """The network of an architecture, with the initialisation for training."""
    for architecture, network in FAMILIES.values():
        if type(config) is architecture:
            return network(config)
    raise TypeError(f"{type(config).__name__} is not an architecture of {', '.join(FAMILIES)}")


def architecture_of(sizes: Mapping[str, Any]) -> BackboneConfig:
    """The architecture of a node ``model.architecture``; without a ``_target_`` it is a MAR model."""
    target = str(sizes.get("_target_", MARConfig.__name__)).rpartition(".")[2]
    kinds = {kind.__name__: kind for kind, _ in FAMILIES.values()}
    return kinds[target](**{name: value for name, value in sizes.items() if name != "_target_"})
