"""Conditioning in training: labels or text, dropped at random for classifier-free guidance."""

from __future__ import annotations

from torch import Tensor, nn

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.condition import Condition
from mar_accel.models.text_encoder import encode_text


class Conditioner(nn.Module):
    """Maps the second part of a batch to the condition that ``training_loss`` of the model accepts."""

    def forward(self, model: TokenBackbone, inputs: Tensor, dropped: Tensor) -> Condition:
        """Compute the condition of a batch: one branch.

        Args:
            model: the model in training.
            inputs: labels [B], or token ids [B, N].
            dropped: bool [B]; true if the unconditional embedding replaces the condition.
        """
        raise NotImplementedError


class LabelConditioner(Conditioner):
    """Takes labels [B], for a MAR model."""

    def forward(self, model: TokenBackbone, inputs: Tensor, dropped: Tensor) -> Condition:
        return model.condition(inputs, dropped)


class TextConditioner(Conditioner):
    """Encodes token ids [B, N], for a LightGen model.

    Args:
        encoder: a text encoder; it is trained together with the model.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, model: TokenBackbone, inputs: Tensor, dropped: Tensor) -> Condition:
        return model.condition(encode_text(self.encoder, inputs), dropped)
