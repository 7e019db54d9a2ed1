"""Weights of the feature networks that come with the package, or that a user has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import nn

from mar_accel.errors import ConfigError
from mar_accel.utils.fingerprints import require_regular_file

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
        ConfigError: the file is missing or holds a different network.
    """
    try:
        require_regular_file(path)
        network.load_state_dict(load_file(path))
    except Exception as error:
        raise ConfigError(
            f"features.weights={path} cannot be read as {kind} feature weights ({type(error).__name__}); "
            "use a file written by python -m mar_accel.train_features, or null for the shipped one."
        ) from error
    return network
