"""LPIPS: perceptual distance of image pairs with AlexNet features, computed by torchmetrics.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features (arXiv:1801.03924).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.utils.exact_convolutions import exact_convolutions

# AlexNet halves its input five times. Images smaller than this are enlarged by a whole factor.
SMALLEST = 64


@torch.inference_mode()
@exact_convolutions()
def lpips(images: Tensor, reference: Tensor) -> Tensor:
    """LPIPS of each image pair: [N], 0 for equal images.

    Args:
        images, reference: uint8 [N, 1 or 3, H, W].

    Raises:
        ConfigError: torchvision or its AlexNet weights are not available.
    """
    try:
        from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

        pairs = [
            learned_perceptual_image_patch_similarity(_prepared(a), _prepared(b), "alex", normalize=True)
            for a, b in zip(images, reference, strict=True)
        ]
    except Exception as error:
        raise ConfigError(
            "evaluate.lpips=true needs torchvision with AlexNet's weights in torch's hub folder "
            f"({type(error).__name__}: {error}); run pip install -e '.[inception]' in the checkout, "
            "or set evaluate.lpips=false."
        ) from error
    return torch.stack([pair.reshape(()) for pair in pairs])


def _prepared(image: Tensor) -> Tensor:
    """Convert uint8 [C, H, W] to float [1, 3, H', W'] in 0..1."""
    pixels = image.expand(3, -1, -1)[None].float() / 255
    factor = -(-SMALLEST // min(pixels.shape[-2:]))
    return F.interpolate(pixels, scale_factor=factor, mode="nearest") if factor > 1 else pixels
