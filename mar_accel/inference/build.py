"""Build objects from the nodes of a config: parts of a session, callbacks and loggers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mar_accel.config.check import check_arguments, check_node, place_of
from mar_accel.config.settings import ModelSettings, Settings
from mar_accel.errors import ConfigError, MarAccelError, WeightsError
from mar_accel.models.autoencoders import Autoencoder, KLAutoencoder
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.parts import check_part
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.weights.loading import load_mar


def build_node(key: str, node: Mapping[str, Any], kind: type | None = None, **arguments: Any) -> Any:
    """Build the object of a node with a ``_target_``; None for a node without one.

    Args:
        key: config key of the node, for messages.
        node: the node.
        kind: class that the object must be an instance of.
        arguments: further arguments that are not in the config.

    Raises:
        ConfigError: the object has another class, rejects its values or fails. The cause is chained.
        MarAccelError: any other error of this package, unchanged.

    Example:
        >>> order = build_node("order", {"_target_": "mar_accel.sampling.orders.HaltonOrder"})
    """
    if node.get("_target_") is None:
        return None
    try:
        built = instantiate(dict(node), **arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, MarAccelError):
            raise error.__cause__ from None
        raise _build_failed(key, node, error) from error.__cause__
    if kind is not None and not isinstance(built, kind):
        raise ConfigError(
            f"{key}._target_={node['_target_']} must make a {kind.__name__}, got a {type(built).__name__}."
        )
    return built


def _build_failed(key: str, node: Mapping[str, Any], error: InstantiationException) -> ConfigError:
    """The sentence about a class that fails: Hydra's message names the key below the node and the target."""
    message, cause = str(error), error.__cause__
    below = re.search(r"^full_key: (.+)$", message, re.MULTILINE)
    target = re.search(r"target '([^']+)'", message)
    key = f"{key}.{below[1]}" if below else key
    reason = message.splitlines()[0].rstrip(":.")
    if cause is not None:
        text = str(cause).strip().partition("\n")[0].rstrip(".")
        reason = f"{type(cause).__name__}: {text}{place_of(cause)}" if text else type(cause).__name__
    return ConfigError(
        f"{key}._target_={target[1] if target else node['_target_']} cannot be built: {reason}; "
        "change its arguments or mend its class."
    )


def build_sampler(settings: Settings) -> Sampler:
    """Build the sampler of a config with the model's defaults; raises ConfigError for wrong values."""
    sampler: Sampler = build_node("sampler", settings.sampler, Sampler)
    return sampler.for_model(settings.model.sampling)


def build_cache(settings: Settings) -> CachePolicy:
    """Build the cache policy of a config with the model's defaults; raises ConfigError for wrong values."""
    cache: CachePolicy = build_node("cache", settings.cache, CachePolicy)
    return cache.for_model(settings.model.sampling)


def build_sampling(settings: Settings) -> tuple[MARConfig, Sampler, CachePolicy, Plan]:
    """Build architecture, sampler, cache and plan of a config, which needs no weights.

    Raises:
        ConfigError: they cannot be combined.
    """
    sampler, cache = build_sampler(settings), build_cache(settings)
    architecture = mar_architecture(settings.model)
    return architecture, sampler, cache, checked_plan(architecture, sampler, cache)


def checked_plan(architecture: MARConfig, sampler: Sampler, cache: CachePolicy) -> Plan:
    """The plan of a sampler on a model's grid; raises ConfigError if the cache does not fit both."""
    check_part("cache", cache, CachePolicy)
    plan = sampler.plan(architecture.grid)
    cache.check(architecture, plan, sampler.solver)
    return plan


def build_architecture(model: ModelSettings) -> MARConfig | LightGenConfig:
    """Build the architecture of a model; without a ``_target_`` it is a MAR model.

    Raises:
        ConfigError: a size is wrong.
    """
    if "_target_" in model.architecture:
        check_node("model.architecture", model.architecture)
        return build_node("model.architecture", model.architecture)
    check_arguments("model.architecture", model.architecture, MARConfig)
    return MARConfig(**model.architecture)


def build_model(model: ModelSettings, autoencoder: Autoencoder | None = None) -> tuple[MAR, Autoencoder]:
    """Build model and autoencoder with their weights, on the CPU, in float32 and evaluation mode.

    Args:
        model: settings of the model.
        autoencoder: is used instead of the config's, which is then not loaded.

    Raises:
        WeightsError: weights are missing, damaged or of another model.
        ConfigError: this family of models cannot be sampled.
    """
    network = load_mar(mar_architecture(model), model.weights, model.name, model.ema)
    return network, build_autoencoder(model) if autoencoder is None else autoencoder


def mar_architecture(model: ModelSettings) -> MARConfig:
    """The architecture of a model that can be sampled; raises ConfigError for other models."""
    architecture = build_architecture(model)
    if not isinstance(architecture, MARConfig):
        raise ConfigError(f"model={model.name} takes text, which can be trained but not sampled yet.")
    return architecture


def build_autoencoder(model: ModelSettings) -> Autoencoder:
    """Build the autoencoder of a model; raises WeightsError like ``build_model``."""
    autoencoder: Autoencoder = build_node("model.autoencoder", model.autoencoder, Autoencoder).eval()
    channels = model.architecture["latent_channels"]
    if isinstance(autoencoder, KLAutoencoder) and autoencoder.latent_channels != channels:
        raise WeightsError(
            f"model.autoencoder.weights={model.autoencoder['weights']} has {autoencoder.latent_channels} "
            f"latent channels but model={model.name} has {channels}; use the autoencoder it was trained with."
        )
    return autoencoder
