"""The small feature network of the handwritten digits: a classifier of the 8×8 scans.

It plays Inception's part for the embedded model: its last hidden layer gives the features, its logits
the Inception Score and the share of recognised digits. It was trained on the original scans (see the
card in ``mar_accel/assets/digit_features``) and has never seen a generated image.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from mar_accel.data.digits import IMAGE_SIZE, to_scans
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.features import FeatureExtractor, Features, check_images, file_fingerprint

FEATURE_DIM = 64
NUM_CLASSES = 10
SCAN_SIZE = 8
# To be raised when the same weights give other features: cached statistics are kept by it.
VERSION = 2


class DigitNetwork(nn.Module):
    """Scans [B, 1, 8, 8] in 0..1 to features [B, 64] and logits [B, 10]."""

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
        # The features are taken before the activation: after it, images that are no digits at all
        # (noise) fall together near zero, where precision takes them for real.
        features = self.body(scans)
        return features, self.classifier(F.gelu(features))


def shipped_weights() -> Path:
    """The weight file that comes with the package."""
    return Path(__file__).resolve().parent.parent / "assets" / "digit_features" / "model.safetensors"


class DigitFeatures(FeatureExtractor):
    """Features of digit images: 32×32 (brought back to scans) or 8×8; colour is averaged to grey.

    Args:
        weights: a safetensors file that ``python -m mar_accel.train_features`` wrote; None: the shipped one.

    Raises:
        ConfigError: the file is missing or holds another network.
    """

    name = "digits"
    dim = FEATURE_DIM
    recognises = True

    def __init__(self, weights: str | None = None):
        super().__init__()
        path = Path(weights) if weights else shipped_weights()
        self.network = DigitNetwork()
        try:
            self.network.load_state_dict(load_file(path))
        except Exception as error:
            raise ConfigError(
                f"features.weights={path} is not a digit feature network ({type(error).__name__}); "
                "give a file written by python -m mar_accel.train_features, or null for the shipped one."
            ) from error
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
                f"features=digits reads images of {IMAGE_SIZE}×{IMAGE_SIZE} or {SCAN_SIZE}×{SCAN_SIZE} "
                f"pixels, not {size[0]}×{size[1]}; use features=inception for other images."
            )
        grey = images.float().mean(dim=1, keepdim=True) / 255
        scans = to_scans(grey) if size[0] == IMAGE_SIZE else grey
        pooled, logits = self.network(scans)
        return Features(pooled, logits)
