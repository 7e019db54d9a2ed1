"""Objects from a composed config."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mar_accel.errors import MarAccelError, WeightsError
from mar_accel.models.autoencoders import Autoencoder, KLAutoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.weights.loading import load_mar


def build_part(config: DictConfig) -> Any:
    """The object of a ``_target_``; its own errors come through as they are, without Hydra's around them."""
    try:
        return instantiate(config)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MarAccelError):
            raise cause from None
        raise


def build_sampler(config: DictConfig) -> Sampler:
    """The sampler of a config; raises ConfigError where its values are wrong."""
    return build_part(config.sampler).for_model(config.model.get("sampling", {}))


def build_cache(config: DictConfig) -> CachePolicy:
    """The cache policy of a config; raises ConfigError where its values are wrong."""
    return build_part(config.cache).for_model(config.model.get("sampling", {}))


def build_architecture(model: DictConfig) -> MARConfig:
    """The architecture that a member of the group ``model`` describes."""
    return MARConfig(**OmegaConf.to_container(model.architecture, resolve=True))  # type: ignore[arg-type]


def build_model(model: DictConfig) -> tuple[MAR, Autoencoder]:
    """Model and autoencoder of a member of the group ``model``, with the weights that it names.

    Both are on the CPU, float32, in evaluation mode.

    Raises:
        WeightsError: weights are missing, damaged, or of another model.
    """
    network = load_mar(build_architecture(model), model.weights, model.name, model.get("ema", True))
    return network, build_autoencoder(model)


def build_autoencoder(model: DictConfig) -> Autoencoder:
    """The autoencoder of a member of the group ``model``; raises WeightsError as ``build_model``."""
    autoencoder: Autoencoder = build_part(model.autoencoder).eval()
    channels = model.architecture.latent_channels
    if isinstance(autoencoder, KLAutoencoder) and autoencoder.latent_channels != channels:
        raise WeightsError(
            f"model.autoencoder.weights={model.autoencoder.weights} has {autoencoder.latent_channels} latent "
            f"channels but model={model.name} samples {channels}; give the autoencoder it was trained with."
        )
    return autoencoder
