"""Build objects from the nodes of a config: parts of a session, callbacks and loggers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mar_accel.config.check import check_arguments, check_node, place_of
from mar_accel.config.settings import ModelSettings, Settings
from mar_accel.errors import ConfigError, MarAccelError
from mar_accel.inference.conditioner import Conditioner, PromptConditioner
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.models.mar import MARConfig
from mar_accel.models.text_encoder import T5Size, TextEncoder
from mar_accel.models.word_encoder import WordEncoder
from mar_accel.sampling.parts import check_part, with_article
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.weights.autoencoders import require_latents
from mar_accel.weights.loading import load_mar
from mar_accel.weights.text_folder import load_word_encoder


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
            f"{key}._target_={node['_target_']} must make {with_article(kind.__name__)}, got "
            f"{with_article(type(built).__name__)}."
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


def build_sampling(settings: Settings) -> tuple[BackboneConfig, Sampler, CachePolicy, Plan]:
    """Build architecture, sampler, cache and plan of a config, which needs no weights.

    Raises:
        ConfigError: they cannot be combined.
    """
    sampler, cache = build_sampler(settings), build_cache(settings)
    architecture = build_architecture(settings.model)
    return architecture, sampler, cache, checked_plan(architecture, sampler, cache, settings.seed)


def checked_plan(
    architecture: BackboneConfig,
    sampler: Sampler,
    cache: CachePolicy,
    seed: int,
    unknown: Sequence[int] | None = None,
) -> Plan:
    """The plan of a sampler on a model's grid; raises ConfigError if the cache does not fit both.

    ``unknown`` is the number of unknown tokens of each stage, where some are known at the start.
    """
    check_part("cache", cache, CachePolicy)
    plan = sampler.plan(architecture.grid, seed, unknown)
    cache.check(architecture, plan, sampler.solver)
    return plan


def build_architecture(model: ModelSettings) -> BackboneConfig:
    """Build the architecture of a model; without a ``_target_`` it is a MAR model.

    Raises:
        ConfigError: a size is wrong.
    """
    if "_target_" in model.architecture:
        check_node("model.architecture", model.architecture)
        return build_node("model.architecture", model.architecture, BackboneConfig)
    check_arguments("model.architecture", model.architecture, MARConfig)
    return MARConfig(**model.architecture)


def build_model(
    model: ModelSettings, autoencoder: Autoencoder | None = None
) -> tuple[TokenBackbone, Autoencoder]:
    """Build model and autoencoder with their weights, on the CPU, in float32 and evaluation mode.

    Args:
        model: settings of the model.
        autoencoder: is used instead of the config's, which is then not loaded.

    Raises:
        WeightsError: weights are missing, damaged or of another model.
    """
    network = load_mar(build_architecture(model), model.weights, model.name, model.ema)
    return network, build_autoencoder(model) if autoencoder is None else autoencoder


def build_conditioner(settings: Settings) -> Conditioner:
    """Build what turns the labels of a batch into the model's condition.

    Raises:
        DataError: the text encoder does not know a word of a prompt.
        WeightsError: the text encoder is missing or damaged.
    """
    prompts = settings.dataset.prompts
    if prompts is None:
        return Conditioner()
    return PromptConditioner(build_text_encoder(settings.model), prompts, "dataset.prompts")


def build_text_encoder(model: ModelSettings) -> TextEncoder:
    """Build the text encoder of a text-to-image model; raises WeightsError if it is missing or damaged."""
    node, architecture = model.text_encoder or {}, build_architecture(model)
    if not isinstance(architecture, LightGenConfig):
        raise ConfigError(f"model={model.name} takes labels, so it has no text encoder.")
    length, width = architecture.max_text_length, architecture.caption_channels
    if "_target_" in node:
        return build_node("model.text_encoder", node, TextEncoder, length=length, width=width)
    check_arguments("model.text_encoder", node, T5Size)
    encoder = WordEncoder(load_word_encoder(model.weights, T5Size(**node)))
    if encoder.shape[1] != width:
        raise ConfigError(
            f"model.architecture.caption_channels must be the width {encoder.shape[1]} of the text encoder, "
            f"got {width}."
        )
    if encoder.shape[0] != length:
        raise ConfigError(
            f"model.architecture.max_text_length must be {encoder.shape[0]}, the length of the texts of "
            f"scenes, got {length}."
        )
    return encoder


def build_autoencoder(model: ModelSettings) -> Autoencoder:
    """Build the autoencoder of a model; raises WeightsError like ``build_model``."""
    autoencoder: Autoencoder = build_node("model.autoencoder", model.autoencoder, Autoencoder).eval()
    where = f"model.autoencoder.weights={model.autoencoder.get('weights')}"
    require_latents(autoencoder, build_architecture(model), where)
    return autoencoder
