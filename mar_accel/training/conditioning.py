"""What a model is conditioned on in training: labels or text, given up at random for guidance."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mar_accel.models.lightgen import LightGen
from mar_accel.models.mar import MAR
from mar_accel.models.text_encoder import encode_text


class Conditioner(nn.Module):
    """From the second part of a batch to what the model's ``training_loss`` takes."""

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Any:
        """Conditioning of a batch.

        Args:
            model: the trained model.
            condition: labels [B], or token numbers [B, N].
            dropped: bool [B], true where the unconditional embedding takes the place.
        """
        raise NotImplementedError


class LabelConditioner(Conditioner):
    """Labels [B] to class embeddings [B, D] of a MAR model."""

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Tensor:
        mar = cast("MAR", model)
        unconditional = mar.unconditional_embedding(len(condition))
        return torch.where(dropped[:, None], unconditional, mar.class_embedding(condition))


class TextConditioner(Conditioner):
    """Token numbers [B, N] to the keys and values of a LightGen model's cross stage.

    Args:
        encoder: a text encoder, trained along.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, model: nn.Module, condition: Tensor, dropped: Tensor) -> Any:
        lightgen = cast("LightGen", model)
        text = lightgen.embed_text(encode_text(self.encoder, condition))
        return [lightgen.text_keys(torch.where(dropped[:, None, None], lightgen.fake_latent, text))]
