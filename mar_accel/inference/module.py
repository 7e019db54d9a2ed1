"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer, Observers
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler


@dataclass
class Prediction:
    """Images of one batch.

    Attributes:
        indices: sample indices [B].
        labels: class labels [B].
        images: [B, 1 or 3, H, W], float32 in 0..1.
        tokens: [B, L, C], float32; what fidelity in latent space is measured on.
    """

    indices: Tensor
    labels: Tensor
    images: Tensor
    tokens: Tensor


class InferenceModule(pl.LightningModule):
    """Samples the requests of a :class:`mar_accel.data.requests.GenerationRequests`.

    Args:
        model, autoencoder: what is sampled, and what turns latents into images.
        sampler, cache: how it is sampled.
        seed: with the sample index it decides an image; at least 0.

    Attributes:
        observers: are told what happens while ``predict_step`` samples; callbacks add and remove theirs.

    Raises:
        ConfigError: sampler, cache and model cannot be combined.
    """

    def __init__(self, model: MAR, autoencoder: Autoencoder, sampler: Sampler, cache: CachePolicy, seed: int):
        super().__init__()
        self.model = model
        self.autoencoder = autoencoder
        self.sampler = sampler
        self.plan = sampler.plan(model.config.grid)
        cache.check(model.config, self.plan, sampler.solver)
        self.cache = cache
        self.seed = seed
        self.observers: list[Observer] = []

    def with_sampling(self, sampler: Sampler, cache: CachePolicy) -> InferenceModule:
        """Another module with the same weights and seed; raises ConfigError as this class does."""
        return InferenceModule(self.model, self.autoencoder, sampler, cache, self.seed).eval()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        return self.sample(*batch, Observers(self.observers))

    def sample(self, indices: Tensor, labels: Tensor, observer: Observer) -> Prediction:
        """Sample images [B] of given sample indices and labels, and tell ``observer`` alone what happens."""
        noise = self.sampler.draw(self.plan, self.seed, indices.tolist(), self.model.config.token_dim)
        engine = Engine(self.model, self.plan, self.sampler.solver, self.cache, self.sampler.selection)
        tokens = decode(engine, self.model.class_embedding(labels), noise.to(self.device), observer)
        latents = self.model.unpatchify(tokens).to(self.dtype)
        observer.autoencoder_start(latents)
        with torch.inference_mode():
            images = self.autoencoder.decode(latents).float()
        observer.autoencoder_end(images)
        return Prediction(indices, labels, images, tokens)
