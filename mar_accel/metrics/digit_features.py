"""The small feature network for handwritten digits: a classifier of the 8×8 scans.

It replaces InceptionV3 for the embedded model.
Its last hidden layer gives the features.
Its logits give the Inception Score and the share of recognised digits.
It was trained on the original scans and has never seen a generated image.
Its model card is in ``mar_accel/assets/digit_features``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from mar_accel.data.digits import IMAGE_SIZE, to_scans
from mar_accel.errors import DataError
from mar_accel.metrics.feature_weights import load_feature_weights, shipped_file
from mar_accel.metrics.features import FeatureExtractor, Features, check_images
from mar_accel.utils.fingerprints import file_fingerprint

FEATURE_DIM = 64
NUM_CLASSES = 10
SCAN_SIZE = 8
# Part of the key of cached statistics. Increase it when the same weights give different features.
VERSION = 2


class DigitNetwork(nn.Module):
    """Maps scans [B, 1, 8, 8] in 0..1 to features [B, 64] and logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.BatchNorm2d(64),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * 4 * 4, FEATURE_DIM),
        )
        self.classifier = nn.Linear(FEATURE_DIM, NUM_CLASSES)

    def forward(self, scans: Tensor) -> tuple[Tensor, Tensor]:
        # The features are taken before the activation. After it, images of noise collapse near zero,
        # and precision would count them as real digits.
        features = self.body(scans)
        return features, self.classifier(F.gelu(features))


def shipped_digit_network() -> DigitNetwork:
    """The shipped network, in evaluation mode."""
    network = load_feature_weights(DigitNetwork(), shipped_file("digit_features"), "digit")
    return network.requires_grad_(False).eval()


class DigitFeatures(FeatureExtractor):
    """Features of digit images of 32×32 or 8×8 pixels.

    Images of 32×32 are first reduced to 8×8 scans.
    RGB images are averaged to grey.

    Args:
        weights: a .safetensors file written by ``python -m mar_accel.train_features``.
            None: the shipped file.

    Raises:
        ConfigError: the file is missing or holds a different network.

    Example:
        >>> features = DigitFeatures()(images)  # uint8 [B, 1, 32, 32]
        >>> features.pooled.shape  # [B, 64]
    """

    name = "digits"
    dim = FEATURE_DIM
    recognises = True

    def __init__(self, weights: Annotated[str, MinLen(1)] | None = None):
        super().__init__()
        path = shipped_file("digit_features") if weights is None else Path(weights).expanduser()
        self.network = load_feature_weights(DigitNetwork(), path, "digit")
        self.fingerprint = f"{file_fingerprint(path)}-{VERSION}"
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DigitFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        check_images(images)
        size = tuple(images.shape[-2:])
        if size not in ((IMAGE_SIZE, IMAGE_SIZE), (SCAN_SIZE, SCAN_SIZE)):
            raise DataError(
                f"features=digits needs images of {IMAGE_SIZE}×{IMAGE_SIZE} or {SCAN_SIZE}×{SCAN_SIZE} "
                f"pixels, got {size[0]}×{size[1]}; use features=inception for other images."
            )
        grey = images.float().mean(dim=1, keepdim=True) / 255
        scans = to_scans(grey) if size[0] == IMAGE_SIZE else grey
        pooled, logits = self.network(scans)
        return Features(pooled, logits)
