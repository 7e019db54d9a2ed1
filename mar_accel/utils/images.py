"""Images as files: PNGs written whole or not at all, and grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mar_accel.utils.whole_files import written_whole

# Smaller images are enlarged in grids, by whole factors, so that a person can see them.
READABLE_SIZE = 64


def image_name(index: int) -> str:
    """File name of sample ``index``; the padding keeps listings in order."""
    return f"{index:06d}.png"


def to_pil(image: Tensor) -> Image.Image:
    """An image [1 or 3, H, W] in 0..1 to 8-bit grey or RGB."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels[0].numpy() if pixels.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def save_png(image: Image.Image, path: Path) -> None:
    """Write through a temporary name, so that a kill leaves no half file."""
    with written_whole(path) as temporary:
        image.save(temporary, format="PNG")


def make_grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Images of one size, row by row.

    Args:
        images: at least one.
        columns: images per row; the smallest square when absent.
        gap: pixels between images, before enlargement.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * (width + gap) + gap, rows * (height + gap) + gap), "gray")
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        grid.paste(image, (gap + column * (width + gap), gap + row * (height + gap)))
    factor = math.ceil(READABLE_SIZE / min(width, height))
    return grid.resize((grid.width * factor, grid.height * factor), Image.Resampling.NEAREST)
