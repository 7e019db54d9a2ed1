"""Autoencoders by kind: which function loads which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import BackboneConfig
from mar_accel.weights.autoencoder_folder import DC, DETOK, FIXED, KINDS, KL
from mar_accel.weights.dc_autoencoder import load_dc_autoencoder
from mar_accel.weights.detok import load_detok
from mar_accel.weights.loading import load_kl_autoencoder

LOADERS: dict[str, Callable[[str], Autoencoder]] = {
    KL: load_kl_autoencoder,
    DC: load_dc_autoencoder,
    DETOK: load_detok,
}


def load_autoencoder(kind: str, weights: str) -> Autoencoder:
    """The autoencoder of a model folder.

    Args:
        kind: "pixel", "cosine", "kl", "dc" or "detok", as in the folder's ``config.json``.
        weights: source of its weights; "pixel" and "cosine" need none.

    Raises:
        WeightsError: the weights are missing, damaged or of another kind.
    """
    return KINDS[kind]() if kind in FIXED else LOADERS[kind](weights)


def kind_of_node(node: Mapping[str, Any]) -> str | None:
    """The kind of autoencoder that a node of a config makes; None for one of the user's own."""
    targets = {f"{loader.__module__}.{loader.__qualname__}": kind for kind, loader in LOADERS.items()}
    return targets.get(str(node.get("_target_")))


def require_latents(autoencoder: Autoencoder, config: BackboneConfig, where: str) -> None:
    """Refuse an autoencoder that cannot decode the latents of a model.

    Args:
        where: start of the message: key and value of the autoencoder's weights.

    Raises:
        ConfigError: an autoencoder without weights makes no picture of that number of channels.
        WeightsError: the weights of the autoencoder have other latents.
    """
    possible = getattr(autoencoder, "possible_channels", None)
    if possible is not None and config.latent_channels not in possible:
        raise ConfigError(
            f"model.architecture.latent_channels must be {possible[0]} (greyscale) or {possible[1]} (colour) "
            f"for a {type(autoencoder).__name__}, got {config.latent_channels}."
        )
    channels, grid = (getattr(autoencoder, name, None) for name in ("latent_channels", "latent_grid"))
    if channels is not None and channels != config.latent_channels:
        raise WeightsError(
            f"{where} has {channels} latent channels but the model has {config.latent_channels}; use the "
            "autoencoder it was trained with."
        )
    _, *wanted = config.latent_shape
    if grid is not None and list(grid) != wanted:
        raise WeightsError(
            f"{where} decodes {grid[0]}×{grid[1]} latents but the model has {wanted[0]}×{wanted[1]}; use the "
            "autoencoder it was trained with."
        )
