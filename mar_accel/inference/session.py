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
from mar_accel.inference.build import (
    build_cache,
    build_conditioner,
    build_model,
    build_sampler,
    build_sampling,
)
from mar_accel.inference.conditioner import Conditioner
from mar_accel.inference.inpainting import Inpainting, load_inpainting, unknown_tokens
from mar_accel.inference.plans import Plans
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.sizes import check_bytes
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.utils.exact_convolutions import exact_convolutions


@dataclass
class Prediction:
    """Images of one batch.

    Attributes:
        indices: sample indices [B].
        labels: class labels, or numbers of prompts [B].
        images: [B, 1 or 3, H, W], float32, about 0..1.
        tokens: [B, L, C], float32; used to measure fidelity in latent space.
    """

    indices: Tensor
    labels: Tensor
    images: Tensor
    tokens: Tensor

    @classmethod
    def join(cls, parts: Sequence[Prediction]) -> Prediction:
        """The samples of several predictions, in order."""
        if len(parts) == 1:
            return parts[0]
        fields = zip(*((p.indices, p.labels, p.images, p.tokens) for p in parts), strict=True)
        return cls(*(torch.cat(tensors) for tensors in fields))

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
    """Model, autoencoder, sampler and cache that fit together, and their plans.

    Attributes:
        conditioner: turns labels, or numbers of prompts, into the model's condition.
        plans: AR steps of the sampler on the model's grid, by sample.
        seed: together with the sample index it determines the noise of an image; at least 0.
        defaults: the model's sampling defaults by name, for values that sampler and cache leave open.
        inpainting: images and masks. Then only masked tokens are sampled. None: whole images are.

    Example:
        >>> session = Session.from_settings(compose_settings("generate", ["sampler=gtr"]))
        >>> images = session.sample([0, 1], torch.tensor([3, 7])).images  # [2, 1, 32, 32]
    """

    model: TokenBackbone
    autoencoder: Autoencoder
    sampler: Sampler
    cache: CachePolicy
    plans: Plans
    seed: int
    defaults: Mapping[str, Any]
    conditioner: Conditioner
    inpainting: Inpainting | None = None

    @classmethod
    def of(
        cls,
        model: TokenBackbone,
        autoencoder: Autoencoder,
        sampler: Sampler,
        cache: CachePolicy,
        seed: int = 0,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        conditioner: Conditioner | None = None,
        inpainting: Inpainting | None = None,
    ) -> Session:
        """Build a session from objects; raises ConfigError if they cannot be combined."""
        sampler, cache = sampler.for_model(defaults), cache.for_model(defaults)
        plans = Plans(model.config, sampler, cache, seed)
        # Whole images must be possible too: the sampler is checked before any mask is.
        _ = plans.first
        session = cls(model, autoencoder, sampler, cache, plans, seed, defaults, conditioner or Conditioner())
        return session if inpainting is None else session.with_inpainting(inpainting)

    def with_inpainting(self, inpainting: Inpainting) -> Session:
        """A session that samples the masked parts of images; raises ConfigError if a plan is impossible."""
        plans = replace(self.plans, masks=inpainting.masks)
        plans.check()
        return replace(self, inpainting=inpainting, plans=plans)

    @property
    def plan(self) -> Plan:
        """The plan of sample 0; of all samples where images are whole."""
        return self.plans.first

    @classmethod
    def from_settings(
        cls, settings: Settings, autoencoder: Autoencoder | None = None, like: Session | None = None
    ) -> Session:
        """Build the session of a config, on the CPU in float32.

        Args:
            settings: settings of the run.
            autoencoder: is used instead of the config's, which is then not loaded.
            like: a session of the same model, whose weights are used. None: they are loaded.

        Raises:
            ConfigError: sampler, cache and model cannot be combined.
                This is found before the weights are loaded.
            WeightsError: weights are missing, damaged or of another model.
            DataError: the text encoder does not know a word of a prompt.
        """
        _, sampler, cache, _ = build_sampling(settings)
        # The prompts are judged before the weights of the image model are loaded.
        conditioner = build_conditioner(settings)
        network, decoder = (
            build_model(settings.model, autoencoder) if like is None else (like.model, like.autoencoder)
        )
        session = cls.of(
            network, decoder, sampler, cache, settings.seed, settings.model.sampling, conditioner
        )
        if settings.dataset.images is None:
            return session
        return session.with_inpainting(load_inpainting(settings.dataset, session.image_shape()))

    def with_sampling(self, sampler: Sampler, cache: CachePolicy) -> Session:
        """A session with the same model and another sampler and cache."""
        parts = (self.model, self.autoencoder, sampler, cache)
        return Session.of(*parts, self.seed, self.defaults, self.conditioner, self.inpainting)

    def with_settings(self, settings: Settings, own: Settings) -> Session:
        """A session of other settings with the same model, whose weights are not loaded again.

        Args:
            settings: its settings; their ``model`` is that of this session.
            own: the settings of this session. Where data set and seed are the same, text features are kept.
        """
        if (settings.dataset, settings.seed) == (own.dataset, own.seed):
            return self.with_sampling(build_sampler(settings), build_cache(settings))
        return Session.from_settings(settings, like=self)

    def check_batch(self, num_images: int, key: str = "trainer.batch_size") -> None:
        """Raise ConfigError for a batch of so many images whose noise alone does not fit into memory."""
        config, chain = self.model.config, self.plan.max_diffusion_steps + 1
        per_image = 4 * config.seq_len * (chain * config.token_dim + config.embed_dim)
        check_bytes(f"{key}={num_images}", num_images * per_image)

    def check_images(self, num_images: int) -> None:
        """Raise ConfigError if so many images and their tokens do not fit into memory at the same time."""
        config = self.model.config
        per_image = 4 * (math.prod(self.image_shape()) + config.seq_len * config.token_dim)
        check_bytes(f"a call for {num_images} images", num_images * per_image)

    @torch.inference_mode()
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image; an autoencoder that cannot tell them decodes zeros."""
        latents = self.model.config.latent_shape
        shape = self.autoencoder.image_shape(latents)
        if shape is not None:
            return shape
        return tuple(self.autoencoder.decode(self.model.fake_latent.new_zeros(1, *latents)).shape[1:])

    @exact_convolutions()
    def sample(self, indices: Sequence[int], labels: Tensor, observer: Observer | None = None) -> Prediction:
        """Sample and decode one batch.

        Args:
            indices: sample indices [B]; together with the seed they determine order and noise.
            labels: class labels, or numbers of prompts, int64 [B], on the model's device.
            observer: is called at each event of the sampling.
        """
        observer = observer or Observer()
        if self.inpainting is None:
            tokens = self._decode(self.plans.first, indices, labels, observer)
        else:
            tokens = self._decode_masked(self.inpainting, indices, labels, observer)
        latents = self.model.unpatchify(tokens).to(self.model.fake_latent.dtype)
        observer.autoencoder_start(latents)
        with torch.inference_mode():
            images = self.autoencoder.decode(latents).float()
            if self.inpainting is not None:
                images = self.inpainting.with_kept_pixels(images, indices)
        observer.autoencoder_end(images)
        return Prediction(torch.tensor(list(indices), dtype=torch.long, device="cpu"), labels, images, tokens)

    def _decode(
        self,
        plan: Plan,
        indices: Sequence[int],
        labels: Tensor,
        observer: Observer,
        unknown: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, L, C] of a batch; ``unknown`` [B, L] and ``known`` [B, L, C] if some are given."""
        model, sampler = self.model, self.sampler
        noise = sampler.draw(plan, self.seed, indices, model.config.token_dim, unknown).to(labels.device)
        engine = Engine(model, plan, sampler.solver, self.cache, sampler.selection)
        with torch.inference_mode():
            condition = self.conditioner(model, labels)
        return decode(engine, condition, noise, observer, known)

    @torch.inference_mode()
    def _decode_masked(
        self, inpainting: Inpainting, indices: Sequence[int], labels: Tensor, observer: Observer
    ) -> Tensor:
        """Tokens [B, L, C] of a batch whose unmasked tokens are those of the given images.

        Images with the same number of unknown tokens in each stage have the same plan, and run together.
        """
        model, dtype = self.model, self.model.fake_latent.dtype
        images = inpainting.images_of(indices).to(labels.device, dtype)
        known = model.patchify(self.autoencoder.encode(images)).float()
        unknown = unknown_tokens(inpainting.masks, indices, model.config.grid)
        tokens = torch.empty_like(known)
        for plan, places in self.plans.places(indices):
            some = [indices[place] for place in places]
            tokens[places] = self._decode(
                plan, some, labels[places], observer, unknown[places], known[places]
            )
        return tokens


def check_device(accelerator: str) -> None:
    """Raise ConfigError for a missing GPU, before Lightning fails with a traceback."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = there["cuda"] or there["mps"]
    if not there.get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator} needs a GPU, but this machine has none; use trainer=cpu."
        )
