"""Fidelity: how close accelerated images are to the unaccelerated images of the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mar_accel.errors import DataError
from mar_accel.metrics.catalogue import EQUAL_IMAGES_PSNR


@dataclass
class Fidelity:
    """Similarity of each image to its reference image.

    Attributes:
        psnr: [N], dB, at most 110 (equal images).
        ssim: [N], −1..1.
        latent_mse: [N], mean squared difference of the tokens; None if tokens are unknown.
    """

    psnr: Tensor
    ssim: Tensor
    latent_mse: Tensor | None

    def summary(self) -> dict[str, float | None]:
        """Mean and standard deviation over the images; None for unknown values."""
        numbers: dict[str, float | None] = {
            "psnr": float(self.psnr.mean()),
            "psnr_std": float(self.psnr.std(correction=0)),
            "ssim": float(self.ssim.mean()),
            "latent_mse": None,
            "latent_mse_std": None,
        }
        if self.latent_mse is not None:
            numbers["latent_mse"] = float(self.latent_mse.mean())
            numbers["latent_mse_std"] = float(self.latent_mse.std(correction=0))
        return numbers


def fidelity(
    images: Tensor, reference: Tensor, tokens: Tensor | None = None, reference_tokens: Tensor | None = None
) -> Fidelity:
    """Compare two sets of images with the same sample indices, image by image.

    Args:
        images, reference: uint8 [N, C, H, W], as saved.
        tokens, reference_tokens: tokens [N, L, C] of the same samples, or None.

    Raises:
        DataError: the two sets differ in number or size.

    Example:
        >>> fidelity(images, images).psnr  # 110 dB for each image
    """
    if images.shape != reference.shape:
        raise DataError(
            f"images {list(images.shape)} and reference images {list(reference.shape)} differ in shape; "
            "use two runs with the same model and number of images."
        )
    a, b = images.double() / 255, reference.double() / 255
    psnr = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)
    latent_mse = None
    if tokens is not None and reference_tokens is not None:
        latent_mse = (tokens.double() - reference_tokens.double()).square().flatten(1).mean(dim=1)
    return Fidelity(psnr.clamp(max=EQUAL_IMAGES_PSNR), ssim.reshape(len(images)), latent_mse)


def difference_images(images: Tensor, reference: Tensor) -> Tensor:
    """Absolute difference of uint8 images, to be looked at: uint8, 0 where they are equal."""
    return (images.to(torch.int16) - reference.to(torch.int16)).abs().to(torch.uint8)
