"""Objects from a composed config."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mar_accel.caching.policy import CachePolicy
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.sampler import Sampler


def build_sampler(config: DictConfig) -> Sampler:
    """The sampler of a config; raises ConfigError where its values are wrong."""
    return instantiate(config.sampler)


def build_cache(config: DictConfig) -> CachePolicy:
    """The cache policy of a config; raises ConfigError where its values are wrong."""
    return instantiate(config.cache)


def build_architecture(model: DictConfig) -> MARConfig:
    """The architecture that a member of the group ``model`` describes."""
    return MARConfig(**OmegaConf.to_container(model.architecture, resolve=True))  # type: ignore[arg-type]


def build_model(model: DictConfig) -> tuple[MAR, Autoencoder]:
    """Model and autoencoder of a member of the group ``model``, with the weights that it names."""
    network = MAR(build_architecture(model))
    return network.eval(), instantiate(model.autoencoder).eval()
