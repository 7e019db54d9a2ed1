"""Weights of the feature networks that come with the package, or that a user has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from mar_accel.errors import ConfigError
from mar_accel.utils.fingerprints import require_regular_file
from mar_accel.utils.weight_tensors import unusable_kind

Network = TypeVar("Network", bound=nn.Module)


def shipped_file(name: str) -> Path:
    """The weight file ``assets/NAME/model.safetensors`` of the package."""
    return Path(__file__).resolve().parent.parent / "assets" / name / "model.safetensors"


def load_feature_weights(network: Network, path: Path, kind: str) -> Network:
    """Load the weights of a file into a network.

    Args:
        network: the network, which is changed.
        path: a .safetensors file.
        kind: what the network looks at, for the error.

    Raises:
        ConfigError: the file is missing, holds a different network, or numbers that are no weights.
    """
    try:
        require_regular_file(path)
        state = load_file(path)
        network.load_state_dict(state)
    except Exception as error:
        raise ConfigError(
            f"features.weights={path} cannot be read as {kind} feature weights ({type(error).__name__}); "
            "use a file written by python -m mar_accel.train_features, or null for the shipped one."
        ) from error
    for key, value in network.state_dict().items():
        # A network may have integers of its own, which count batches.
        fault = unusable_kind(state[key]) if value.is_floating_point() else None
        if fault is not None:
            raise ConfigError(
                f"features.weights={path}: {key} is {fault}; save the weights as float32, float16 or "
                "bfloat16."
            )
    require_finite(network, path)
    return network


def require_finite(network: nn.Module, where: object) -> None:
    """Raise ConfigError for a network with NaN or infinite weights, whose features would judge nothing."""
    for key, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise ConfigError(
                f"features.weights={where}: {key} has NaN or infinite values; use weights of another "
                "training."
            )
