"""Feature extractors: networks that map images to the features behind FID, KID, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mar_accel.errors import BatchSizeError, DataError
from mar_accel.utils.exact_convolutions import exact_convolutions
from mar_accel.utils.out_of_memory import Halving


@dataclass
class Features:
    """Features of B images.

    Attributes:
        pooled: [B, F], float32.
        logits: class logits [B, N], float32; N is 0 for a network without classes.
    """

    pooled: Tensor
    logits: Tensor

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """The features of several batches, in order."""
        return cls(torch.cat([part.pooled for part in parts]), torch.cat([part.logits for part in parts]))


class FeatureExtractor(nn.Module):
    """A frozen network that maps 8-bit images to features.

    A batch that does not fit into memory is worked on in halves, and so are all batches after it.
    Subclasses set the attributes and implement ``forward``.

    Attributes:
        name: as it appears in reports ("digits", "inception").
        dim: number of features F.
        fingerprint: changes with everything that changes the features, such as weights and the size that
            images are resized to; part of the key of cached statistics.
        recognises: whether the logits belong to the classes that images are generated for.
            Only then is the share of recognised images computed.
        for_cmmd: whether the features are those that CMMD is defined for.
    """

    name: str
    dim: int
    fingerprint: str
    recognises: bool = False
    for_cmmd: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._halving = Halving("features of {} images", self._refuse)

    @exact_convolutions()
    def __call__(self, images: Tensor) -> Features:
        """The features of 8-bit images; see ``forward``.

        Raises:
            BatchSizeError: a single image does not fit into memory.
        """
        parts = self._halving.parts(
            len(images), lambda part: super(FeatureExtractor, self).__call__(images[part]), images.device
        )
        return parts[0] if len(parts) == 1 else Features.join(parts)

    def _refuse(self, size: int) -> None:
        if size == 1:
            raise BatchSizeError(
                f"the features of a single image do not fit into the memory of {self.device}; choose other "
                "features, or features=none."
            )

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
