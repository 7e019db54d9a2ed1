"""From the labels of a batch to the model's condition: class labels, or prompts by number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.condition import Condition
from mar_accel.models.text_encoder import TextEncoder


class Conditioner(nn.Module):
    """Maps labels int64 [B] to the conditional branch of a model. The base class takes class labels.

    Attributes:
        notes: sentences about prompts that are not used as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def forward(self, model: TokenBackbone, labels: Tensor) -> Condition:
        return model.condition(labels)


class PromptConditioner(Conditioner):
    """Labels are numbers of prompts. An empty prompt gives the unconditional image.

    Args:
        encoder: the text encoder.
        prompts: the prompts.
        key: config key or argument that holds the prompts, for messages.

    Raises:
        DataError: the encoder does not know a word.
    """

    def __init__(self, encoder: TextEncoder, prompts: Sequence[str], key: str):
        super().__init__()
        self.encoder = encoder
        self.prompts = tuple(prompts)
        self.notes = encoder.check(self.prompts, key)
        self.notes += [
            f"{key}[{number}] is empty, so its images are unconditional."
            for number, prompt in enumerate(self.prompts)
            if is_empty(prompt)
        ]
        encoder.prepare([prompt for prompt in self.prompts if not is_empty(prompt)])

    def forward(self, model: TokenBackbone, labels: Tensor) -> Condition:
        prompts = [self.prompts[label] for label in labels.tolist()]
        known = {prompt: self._features(prompt) for prompt in dict.fromkeys(prompts)}
        features = torch.stack([known[prompt] for prompt in prompts])
        dropped = [is_empty(prompt) for prompt in prompts]
        features = features.to(device=labels.device, dtype=model.fake_latent.dtype)
        return model.condition(features, torch.tensor(dropped, dtype=torch.bool, device=labels.device))

    def _features(self, prompt: str) -> Tensor:
        """Features [N, width] of a prompt. Those of an empty one are not used."""
        if is_empty(prompt):
            return torch.zeros(self.encoder.shape, dtype=torch.float32, device="cpu")
        return self.encoder.features(prompt).float()


def is_empty(prompt: str) -> bool:
    """Whether a prompt has no characters besides white space."""
    return not prompt.strip()
