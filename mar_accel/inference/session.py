"""A session: model, autoencoder, sampler and cache, built once from settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_model, build_sampler, build_sampling, checked_plan
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
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

    @property
    def finite(self) -> Tensor:
        """Whether tokens and image of a sample are free of NaN and infinity, bool [B]."""
        tokens, images = (torch.isfinite(part).flatten(1).all(1) for part in (self.tokens, self.images))
        return tokens & images

    def only(self, chosen: Tensor) -> Prediction:
        """The samples chosen by a mask [B]."""
        return Prediction(
            self.indices[chosen.cpu()], self.labels[chosen], self.images[chosen], self.tokens[chosen]
        )


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
        plan = checked_plan(model.config, sampler, cache)
        return cls(model, autoencoder, sampler, cache, plan, seed, defaults)

    @classmethod
    def from_settings(cls, settings: Settings, autoencoder: Autoencoder | None = None) -> Session:
        """Build the session of a config, on the CPU in float32.

        Args:
            settings: settings of the run.
            autoencoder: is used instead of the config's, which is then not loaded.

        Raises:
            ConfigError: sampler, cache and model cannot be combined.
                This is found before the weights are loaded.
            WeightsError: weights are missing, damaged or of another model.
        """
        _, sampler, cache, plan = build_sampling(settings)
        network, decoder = build_model(settings.model, autoencoder)
        return cls(network, decoder, sampler, cache, plan, settings.seed, settings.model.sampling)

    def with_sampling(self, sampler: Sampler, cache: CachePolicy) -> Session:
        """A session with the same model and another sampler and cache."""
        return Session.of(self.model, self.autoencoder, sampler, cache, self.seed, self.defaults)

    def with_settings(self, settings: Settings) -> Session:
        """A session with the same model, and with sampler and cache of other settings."""
        return self.with_sampling(build_sampler(settings), build_cache(settings))

    @torch.inference_mode()
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image; an autoencoder that cannot tell them decodes zeros."""
        config, blank = self.model.config, self.model.fake_latent
        latents = self.model.unpatchify(blank.new_zeros(1, config.seq_len, config.token_dim))
        _, channels, height, width = latents.shape
        shape = self.autoencoder.image_shape((channels, height, width))
        return tuple(self.autoencoder.decode(latents).shape[1:]) if shape is None else shape

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
        return Prediction(torch.tensor(list(indices), dtype=torch.long, device="cpu"), labels, images, tokens)


def check_device(accelerator: str) -> None:
    """Raise ConfigError for a missing GPU, before Lightning fails with a traceback."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = there["cuda"] or there["mps"]
    if not there.get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator} needs a GPU, but this machine has none; use trainer=cpu."
        )
