"""A session: model, autoencoder, sampler and cache, built once from settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_model, build_sampler, mar_architecture
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.parts import check_part
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler


@dataclass
class Prediction:
    """Images of one batch.

    Attributes:
        indices: sample indices [B].
        labels: class labels [B].
        images: [B, 1 or 3, H, W], float32, about 0..1.
        tokens: [B, L, C], float32; used to measure fidelity in latent space.
    """

    indices: Tensor
    labels: Tensor
    images: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Session:
    """Model, autoencoder, sampler and cache that fit together, and their plan.

    Attributes:
        plan: AR steps of the sampler on the model's grid.
        seed: together with the sample index it determines the noise of an image; at least 0.
        defaults: the model's sampling defaults by name, for values that sampler and cache leave open.

    Example:
        >>> session = Session.from_settings(compose_settings("generate", ["sampler=gtr"]))
        >>> images = session.sample([0, 1], torch.tensor([3, 7])).images  # [2, 1, 32, 32]
    """

    model: MAR
    autoencoder: Autoencoder
    sampler: Sampler
    cache: CachePolicy
    plan: Plan
    seed: int
    defaults: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: MAR,
        autoencoder: Autoencoder,
        sampler: Sampler,
        cache: CachePolicy,
        seed: int = 0,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> Session:
        """Build a session from objects; raises ConfigError if they cannot be combined."""
        sampler, cache = sampler.for_model(defaults), cache.for_model(defaults)
        return cls(model, autoencoder, sampler, cache, _plan(sampler, cache, model.config), seed, defaults)

    @classmethod
    def from_settings(cls, settings: Settings) -> Session:
        """Build the session of a config, on the CPU in float32.

        Raises:
            ConfigError: sampler, cache and model cannot be combined.
            WeightsError: weights are missing, damaged or of another model.
        """
        # Cheap checks come first, so that errors in the config appear before the weights are loaded.
        sampler, cache = build_sampler(settings), build_cache(settings)
        _plan(sampler, cache, mar_architecture(settings.model))
        return cls.of(*build_model(settings.model), sampler, cache, settings.seed, settings.model.sampling)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an image; None if the autoencoder cannot tell."""
        config = self.model.config
        tokens = self.model.fake_latent.new_zeros(1, math.prod(config.grid), config.token_dim)
        _, channels, height, width = self.model.unpatchify(tokens).shape
        return self.autoencoder.image_shape((channels, height, width))

    def with_sampling(self, sampler: Sampler, cache: CachePolicy) -> Session:
        """A session with the same model and another sampler and cache."""
        return Session.of(self.model, self.autoencoder, sampler, cache, self.seed, self.defaults)

    def with_settings(self, settings: Settings) -> Session:
        """A session with the same model, and with sampler and cache of other settings."""
        return self.with_sampling(build_sampler(settings), build_cache(settings))

    def with_autoencoder(self, autoencoder: Autoencoder) -> Session:
        """The same session with another autoencoder."""
        return replace(self, autoencoder=autoencoder)

    def sample(self, indices: Sequence[int], labels: Tensor, observer: Observer | None = None) -> Prediction:
        """Sample and decode one batch.

        Args:
            indices: sample indices [B]; together with the seed they determine order and noise.
            labels: class labels int64 [B], on the model's device.
            observer: is called at each event of the sampling.
        """
        observer = observer or Observer()
        model = self.model
        noise = self.sampler.draw(self.plan, self.seed, indices, model.config.token_dim).to(labels.device)
        engine = Engine(model, self.plan, self.sampler.solver, self.cache, self.sampler.selection)
        tokens = decode(engine, model.class_embedding(labels), noise, observer)
        latents = model.unpatchify(tokens).to(model.fake_latent.dtype)
        observer.autoencoder_start(latents)
        with torch.inference_mode():
            images = self.autoencoder.decode(latents).float()
        observer.autoencoder_end(images)
        return Prediction(torch.as_tensor(list(indices)), labels, images, tokens)


def _plan(sampler: Sampler, cache: CachePolicy, architecture: MARConfig) -> Plan:
    """The plan on the grid of a model; raises ConfigError if sampler, cache and model do not fit."""
    check_part("cache", cache, CachePolicy)
    plan = sampler.plan(architecture.grid)
    cache.check(architecture, plan, sampler.solver)
    return plan


def check_device(accelerator: str) -> None:
    """Raise ConfigError for a missing GPU, before Lightning fails with a traceback."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = there["cuda"] or there["mps"]
    if not there.get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator} needs a GPU, but this machine has none; use trainer=cpu."
        )
