"""The LightningModule that trains a MAR or LightGen model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.config.settings import TrainingSettings
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.transformer import gather_tokens
from mar_accel.training.conditioning import Conditioner
from mar_accel.utils.exact_convolutions import exact_convolutions


def draw_mask_ratio(minimum: float, deviation: float, generator: torch.Generator | None = None) -> float:
    """Draw a mask ratio from a normal distribution, truncated to [minimum, 1].

    Its mean is 1; MAR's standard deviation is 0.25 (section 4).
    """
    lower = 0.5 * (1 + math.erf((minimum - 1) / deviation / math.sqrt(2)))
    u = lower + (0.5 - lower) * torch.rand((), dtype=torch.float64, generator=generator).item()
    normal = math.sqrt(2) * torch.erfinv(torch.tensor(2 * u - 1, dtype=torch.float64)).item()
    return min(1.0, max(minimum, 1 + deviation * normal))


def draw_num_masked(length: int, config: TrainingSettings, generator: torch.Generator | None = None) -> int:
    """Draw the number of masked tokens of a batch, 1..length.

    With probability ``full_mask_share`` it is all of them, else a share drawn by ``draw_mask_ratio``.
    Only where nothing is known do all colours and places have to come from the text. MAR's mask ratio gives
    1.6 % of such batches at 256 tokens. A small text encoder that sees no more of them forgets word order.
    """
    # Nothing is drawn for a share of 0, so a training without it draws the same masks as MAR's.
    share = config.full_mask_share
    if share and torch.rand((), dtype=torch.float64, generator=generator).item() < share:
        return length
    ratio = draw_mask_ratio(config.mask_ratio_min, config.mask_ratio_std, generator)
    return max(1, math.ceil(length * ratio))


class TrainingModule(pl.LightningModule):
    """Computes the loss of batches of images [B, C, H, W] in 0..1 with labels [B] or token ids [B, N].

    A batch may have two more parts: F classes of each token, int64 [B, F, h, w] on the grid of the model, and
    the class of each word [B, N], where -100 is none.

    Args:
        model: the model to train.
        conditioner: maps labels or text to the model's condition.
        autoencoder: makes the latents; it is not trained.
        config: settings of the training.
        num_classes: number of classes of each of the F kinds, for ``training.class_weight``.
        num_word_classes: number of classes of words; 0: they have none.
    """

    autoencoder: Autoencoder

    def __init__(
        self,
        model: TokenBackbone,
        conditioner: Conditioner,
        autoencoder: Autoencoder,
        config: TrainingSettings,
        num_classes: Sequence[int] = (),
        num_word_classes: int = 0,
    ):
        super().__init__()
        self.model = model
        self.conditioner = conditioner
        self.config = config
        sizes = model.config.embed_dim, model.config.token_dim
        self.predictor = nn.Linear(*sizes) if config.clean_weight else None
        self.num_classes = list(num_classes)
        self.classifier = nn.Linear(sizes[0], sum(num_classes)) if config.class_weight else None
        has_words = config.class_weight and num_word_classes
        self.word_classifier = nn.Linear(sizes[0], num_word_classes) if has_words else None
        # Not a child of this module, so that it is neither trained nor averaged nor saved.
        self.__dict__["autoencoder"] = autoencoder.requires_grad_(False)

    def on_train_start(self) -> None:
        self.autoencoder.to(self.device)
        # Every process and every resumed training draws different masks, noise and augmentation.
        seeds = np.random.SeedSequence([torch.initial_seed() % 2**32, self.global_step, self.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, inputs, *classes = batch
        latents = self._encode(images)
        config, length = self.config, self.model.config.seq_len
        num_masked = draw_num_masked(length, config)
        order = torch.rand(len(latents), length, dtype=torch.float32, device=self.device).argsort(dim=1)
        dropped = torch.rand(len(latents), dtype=torch.float32, device=self.device) < config.label_drop
        condition = self.conditioner(self.model, inputs, dropped)
        num_predicted = num_masked if num_masked < length else config.full_mask_tokens or length
        clean, z = self.model.masked_tokens(latents, condition, order, num_masked, num_predicted)
        draws, max_weight = config.timestep_draws, config.max_noise_weight
        loss = self.model.diffloss.loss(clean, z, draws=draws, max_weight=max_weight)
        if self.predictor is not None:
            error = (self.predictor(z).float() - clean).square().mean()
            loss = loss + config.clean_weight * error
        if self.classifier is not None:
            error = self._class_loss(self.classifier(z).float(), classes[0], order[:, :num_predicted])
            self.log("class_loss", error)
            loss = loss + config.class_weight * error
        if self.word_classifier is not None:
            # Words of a dropped text are not in the condition.
            logits = self.word_classifier(condition.branches[0].text[~dropped])
            error = self._word_loss(logits.float(), classes[1][~dropped])
            self.log("word_loss", error)
            loss = loss + config.class_weight * error
        self.log("loss", loss)
        return loss

    def _class_loss(self, logits: Tensor, classes: Tensor, masked: Tensor) -> Tensor:
        """Cross-entropy of logits [B·n, sum of classes] at positions [B, n], summed over the F kinds.

        The classes are [B, F, h, w].
        """
        targets = gather_tokens(classes.flatten(2).transpose(1, 2), masked).flatten(0, 1)
        parts = zip(logits.split(self.num_classes, dim=1), targets.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(part, target) for part, target in parts]).sum()

    @staticmethod
    def _word_loss(logits: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy of logits [B, N, C] with classes [B, N]; 0 if no word has one."""
        total = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="sum")
        return total / (classes >= 0).sum().clamp(min=1)

    @exact_convolutions()
    def _encode(self, images: Tensor) -> Tensor:
        """Latents in float32, under every precision of the trainer."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.autoencoder.encode(images.float())

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the learning rate in 0..1: linear warm-up, constant, linear decay to zero."""
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
