"""Conditioning in training: labels or text, dropped at random for classifier-free guidance."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mar_accel.models.lightgen import LightGen
from mar_accel.models.mar import MAR
from mar_accel.models.text_encoder import encode_text


class Conditioner(nn.Module):
    """Maps the second part of a batch to the conditioning that ``training_loss`` of the model accepts."""

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Any:
        """Compute the conditioning of a batch.

        Args:
            model: the model in training.
            condition: labels [B], or token ids [B, N].
            dropped: bool [B]; true if the unconditional embedding replaces the condition.
        """
        raise NotImplementedError


class LabelConditioner(Conditioner):
    """Maps labels [B] to class embeddings [B, D] of a MAR model."""

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Tensor:
        mar = cast("MAR", model)
        unconditional = mar.unconditional_embedding(len(condition))
        return torch.where(dropped[:, None], unconditional, mar.class_embedding(condition))


class TextConditioner(Conditioner):
    """Maps token ids [B, N] to the keys and values of a LightGen model's cross-attention.

    Args:
        encoder: a text encoder; it is trained together with the model.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Any:
        lightgen = cast("LightGen", model)
        text = lightgen.embed_text(encode_text(self.encoder, condition))
        return [lightgen.text_keys(torch.where(dropped[:, None, None], lightgen.fake_latent, text))]
