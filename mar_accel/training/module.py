"""Training of a MAR model as a LightningModule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.models.lightgen import LightGen
from mar_accel.models.mar import MAR
from mar_accel.training.conditioning import Conditioner


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation settings; see ``conf/train.yaml`` for their defaults.

    Attributes:
        max_steps: optimiser steps. batch_size: images per step.
        learning_rate, weight_decay: of AdamW (betas 0.9, 0.95).
        warmup_steps: steps of linear warm-up.
        decay_fraction: share of the steps, at the end, of linear decay to zero; 0..1.
        ema_decay: decay of the averaged weights, which are what is sampled.
        label_drop: probability that a label or a text gives way to the unconditional embedding; 0..1.
        mask_ratio_min: smallest share of masked tokens; ratios follow a normal around 1 with
            deviation 0.25, truncated to [mask_ratio_min, 1] (MAR, section 4).
        gradient_clip: largest gradient norm.
        timestep_draws: noised versions of each masked token in a step (4 in MAR); the head runs on all of
            them, the backbone once.
        checkpoint_every: steps between checkpoints. resume: checkpoint to go on from.
        initial_weights: model folder to begin with, in place of random weights; steps count from 0.
    """

    max_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    decay_fraction: float
    ema_decay: float
    label_drop: float
    mask_ratio_min: float
    gradient_clip: float
    checkpoint_every: int
    timestep_draws: int = 1
    resume: str | None = None
    initial_weights: str | None = None

    def __post_init__(self) -> None:
        for key in ("decay_fraction", "label_drop", "mask_ratio_min"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(
                    f"training.{key}={getattr(self, key)} is not a share; give a number in 0..1."
                )
        for key in ("max_steps", "batch_size", "checkpoint_every", "timestep_draws"):
            if getattr(self, key) < 1:
                raise ConfigError(f"training.{key}={getattr(self, key)} is too small; give at least 1.")
        for key in ("learning_rate", "weight_decay", "warmup_steps", "gradient_clip"):
            if getattr(self, key) < 0:
                raise ConfigError(f"training.{key}={getattr(self, key)} is negative; give 0 or more.")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(
                f"training.ema_decay={self.ema_decay} averages nothing; give 0 or more, below 1."
            )


def draw_mask_ratio(minimum: float, generator: torch.Generator | None = None) -> float:
    """One mask ratio from the normal around 1 (deviation 0.25), truncated to [minimum, 1]."""
    lower = 0.5 * (1 + math.erf((minimum - 1) / 0.25 / math.sqrt(2)))
    u = lower + (0.5 - lower) * torch.rand((), dtype=torch.float64, generator=generator).item()
    normal = math.sqrt(2) * torch.erfinv(torch.tensor(2 * u - 1, dtype=torch.float64)).item()
    return min(1.0, max(minimum, 1 + 0.25 * normal))


class TrainingModule(pl.LightningModule):
    """Batches of latents [B, c, H, W] and labels [B] or token numbers [B, N] to the loss."""

    def __init__(self, model: MAR | LightGen, conditioner: Conditioner, config: TrainingConfig):
        super().__init__()
        self.model = model
        self.conditioner = conditioner
        self.config = config

    def on_train_start(self) -> None:
        # Each process, and a training that goes on, draws other masks, noise and augmentation.
        seeds = np.random.SeedSequence([torch.initial_seed() % 2**32, self.global_step, self.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        latents, condition = batch
        length = self.model.config.seq_len
        num_masked = math.ceil(length * draw_mask_ratio(self.config.mask_ratio_min))
        order = torch.rand(len(latents), length, device=self.device).argsort(dim=1)
        dropped = torch.rand(len(latents), device=self.device) < self.config.label_drop
        conditioning = self.conditioner(self.model, condition, dropped)
        draws = self.config.timestep_draws
        loss = self.model.training_loss(latents, conditioning, order, num_masked, draws=draws)
        self.log("loss", loss, prog_bar=True)
        return loss

    def learning_rate_factor(self, step: int) -> float:
        """Warm-up, constant, linear decay to zero; 0..1."""
        config = self.config
        warmup = (step + 1) / max(1, config.warmup_steps)
        decay_steps = max(1, round(config.max_steps * config.decay_fraction))
        return max(0.0, min(1.0, warmup, (config.max_steps - step) / decay_steps))

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim >= 2 and p.shape[0] > 1]
        others = [p for p in self.parameters() if not (p.ndim >= 2 and p.shape[0] > 1)]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            groups,
            lr=self.config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.config.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
