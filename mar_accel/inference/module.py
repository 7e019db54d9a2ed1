"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, StepCallback, decode
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
        self.on_ar_step: StepCallback | None = None

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        indices, labels = batch
        noise = self.sampler.draw(self.plan, self.seed, indices.tolist(), self.model.config.token_dim)
        engine = Engine(self.model, self.plan, self.sampler.solver, self.cache, self.sampler.selection)
        tokens = decode(
            engine, self.model.class_embedding(labels), noise.to(self.device), on_step=self.on_ar_step
        )
        latents = self.model.unpatchify(tokens).to(self.dtype)
        with torch.inference_mode():
            images = self.autoencoder.decode(latents).float()
        return Prediction(indices, labels, images, tokens)
