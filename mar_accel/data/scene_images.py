"""Draws batches of scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.data.digits import load_scans, random_affine
from mar_accel.data.scenes import CHECKS, COLOURS, GRAIN, IMAGE_SIZE, PLAIN, STRIPES, Scene

# Patterns alternate between the background colour and this multiple of it.
SHADE = 0.62
# Side of a stripe or a check in pixels.
CELL = 8
# Scans have grey edges. Contrast around this level makes the strokes of a digit solid.
_EDGE, _CONTRAST = 0.40, 3.0


class SceneDrawer:
    """Draws scenes with the augmented scans of handwritten digits (needs scikit-learn).

    Args:
        chosen: numbers of the scans to draw with, int64 [n]. None: all 1,797.
    """

    def __init__(self, chosen: Tensor | None = None) -> None:
        scans, labels = load_scans()
        if chosen is not None:
            scans, labels = scans[chosen], labels[chosen]
        self.scans = scans
        self.by_digit = [torch.nonzero(labels == digit).flatten().numpy() for digit in range(10)]

    def __call__(self, scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
        """Draw images [B, 3, 64, 64] in 0..1. Scans, augmentation and pattern phases are random."""
        return self.with_coverage(scenes, rng)[0]

    def with_coverage(self, scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """The images of a call, and the share of each pixel that an object covers [B, 1, 64, 64] in 0..1."""
        images = _backgrounds(scenes, rng)
        covered = torch.zeros(len(images), 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float32)
        rows = [row for row, scene in enumerate(scenes) for _ in scene.objects]
        items = [item for scene in scenes for item in scene.objects]
        chosen = [int(rng.choice(self.by_digit[item.digit])) for item in items]
        squares = torch.tensor([[item.column, item.row, item.size] for item in items], dtype=torch.float32)
        coverage = _place(self.scans[chosen], squares, _torch_generator(rng))
        colours = torch.tensor([COLOURS[item.colour] for item in items], dtype=torch.float32)[..., None, None]
        # Draw one object of each scene at a time, because an image may have several.
        order = [sum(earlier == row for earlier in rows[:index]) for index, row in enumerate(rows)]
        for number in range(max(order) + 1):
            index = [i for i, place in enumerate(order) if place == number]
            target = [rows[i] for i in index]
            images[target] = torch.lerp(
                images[target], colours[index].expand(-1, -1, 64, 64), coverage[index]
            )
            covered[target] = torch.maximum(covered[target], coverage[index])
        return images, covered


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def _place(scans: Tensor, squares: Tensor, generator: torch.Generator) -> Tensor:
    """Place scans [n, 1, 8, 8] at squares [n, 3] (column, row, size), in pixels.

    Returns:
        Coverage [n, 1, 64, 64] in 0..1.
    """
    affine = random_affine(len(scans), generator)
    half = IMAGE_SIZE / 2
    scale = IMAGE_SIZE / squares[:, 2:]
    centre = (squares[:, :2] - half) / half
    # Map output coordinates to the square (-1..1 over it), then apply the augmentation.
    linear = affine[:, :, :2] * scale[:, :, None]
    shift = affine[:, :, 2:] - linear @ centre[:, :, None]
    grid = F.affine_grid(torch.cat([linear, shift], 2), [len(scans), 1, IMAGE_SIZE, IMAGE_SIZE], False)
    ink = F.grid_sample(scans, grid, mode="bicubic", align_corners=False)
    return ((ink - _EDGE) * _CONTRAST + 0.5).clamp(0, 1)


def _backgrounds(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Backgrounds [B, 3, 64, 64] in 0..1."""
    colours = torch.tensor([COLOURS[scene.background] for scene in scenes], dtype=torch.float32)
    shades = np.stack([_shade(scene.pattern, rng) for scene in scenes])
    return colours[:, :, None, None] * torch.from_numpy(shades).unsqueeze(1)


def _shade(pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Brightness of a background, float32 [64, 64] in 0..1."""
    if pattern == PLAIN:
        return np.ones((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    if pattern == GRAIN:
        coarse = rng.random((IMAGE_SIZE // 2, IMAGE_SIZE // 2), np.float32)
        return (SHADE + (1 - SHADE) * coarse).repeat(2, 0).repeat(2, 1)
    columns, rows = ((np.arange(IMAGE_SIZE) + rng.integers(2 * CELL)) // CELL % 2 for _ in range(2))
    if pattern == STRIPES:
        dark = np.broadcast_to(columns, (IMAGE_SIZE, IMAGE_SIZE))
        dark = dark.T if rng.random() < 0.5 else dark
    else:
        assert pattern == CHECKS
        dark = (columns[None] + rows[:, None]) % 2
    return np.where(dark, np.float32(SHADE), np.float32(1))
