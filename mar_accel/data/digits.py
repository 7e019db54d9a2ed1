"""Handwritten digits: scikit-learn's 8×8 scans, resized to 32×32 with a margin."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE_SIZE = 32
NUM_SCANS = 1797
# The scan fills the inner 24×24 pixels. The margin keeps a grid of images readable.
CONTENT_SIZE = 24


def load_scans() -> tuple[Tensor, Tensor]:
    """Original scans, float32 [1797, 1, 8, 8] in 0..1, and labels, int64 [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return scans, torch.from_numpy(digits.target).long()


def render(scans: Tensor, affine: Tensor | None = None) -> Tensor:
    """Render scans as images by bicubic interpolation.

    Args:
        scans: scans [B, 1, 8, 8] in 0..1.
        affine: matrices [B, 2, 3] from output to input coordinates, both -1..1 over the content.
            None: identity.

    Returns:
        Images [B, 1, 32, 32] in 0..1.
    """
    batch = scans.shape[0]
    if affine is None:
        affine = torch.eye(2, 3, dtype=scans.dtype, device=scans.device).expand(batch, 2, 3)
    scale = IMAGE_SIZE / CONTENT_SIZE
    theta = torch.cat([affine[:, :, :2] * scale, affine[:, :, 2:]], dim=2)
    grid = F.affine_grid(theta, [batch, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return F.grid_sample(scans, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def to_scans(images: Tensor) -> Tensor:
    """Convert images [B, 1, 32, 32] back to scans [B, 1, 8, 8] by 3×3 averages of the inner square."""
    margin = (IMAGE_SIZE - CONTENT_SIZE) // 2
    content = images[:, :, margin:-margin, margin:-margin]
    return F.avg_pool2d(content, CONTENT_SIZE // 8)


def random_affine(batch_size: int, generator: torch.Generator | None = None) -> Tensor:
    """Random augmentation as affine matrices [B, 2, 3].

    Rotation is up to 8° and scaling up to 8 %. Shear and shift are up to 0.08 in content coordinates (-1..1).
    """

    def uniform(limit: float) -> Tensor:
        return (torch.rand(batch_size, generator=generator, dtype=torch.float32) * 2 - 1) * limit

    angle, shear = uniform(math.radians(8)), uniform(0.08)
    scale_x, scale_y = 1 + uniform(0.08), 1 + uniform(0.08)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, uniform(0.08)], dim=1),
        torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, uniform(0.08)], dim=1),
    ]
    return torch.stack(rows, dim=1)
