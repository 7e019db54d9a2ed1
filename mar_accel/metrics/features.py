"""Feature extractors: networks that map images to the features behind FID, KID, precision and recall."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mar_accel.errors import DataError


@dataclass
class Features:
    """Features of B images.

    Attributes:
        pooled: [B, F], float32.
        logits: class logits [B, N], float32.
    """

    pooled: Tensor
    logits: Tensor


class FeatureExtractor(nn.Module):
    """A frozen network that maps 8-bit images to features.

    Subclasses set the attributes and implement ``forward``.

    Attributes:
        name: as it appears in reports ("digits", "inception").
        dim: number of features F.
        fingerprint: changes with the network's weights; part of the key of cached statistics.
        recognises: whether the logits belong to the classes that images are generated for.
            Only then is the share of recognised images computed.
    """

    name: str
    dim: int
    fingerprint: str
    recognises: bool = False

    @property
    def device(self) -> torch.device:
        """Device of the network's parameters."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Features:
        """Compute the features of 8-bit images.

        Args:
            images: uint8 [B, 1 or 3, H, W].

        Raises:
            DataError: the network does not support the images' size or dtype.
        """
        raise NotImplementedError


def quantise(images: Tensor) -> Tensor:
    """Convert images in 0..1 to uint8, so that metrics see exactly what a PNG stores.

    Values outside 0..1 are clamped.

    Raises:
        DataError: a pixel is NaN or infinite.
    """
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise DataError(
            f"{bad} of {len(images)} images have NaN or infinite pixels; "
            "check for a diverged sampler (sampler.max_timestep, trainer.precision) or a damaged file."
        )
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def check_images(images: Tensor) -> None:
    """Raise :class:`DataError` unless ``images`` are uint8 [B, 1 or 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"images must be uint8 [B, 1 or 3, H, W], got {images.dtype} {list(images.shape)}; "
            "convert them with mar_accel.metrics.features.quantise."
        )


def require_regular_file(path: Path) -> None:
    """Raise OSError for a pipe or a device, from which a reader would wait or read for ever."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file")


def file_fingerprint(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
