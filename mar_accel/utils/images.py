"""Images as files: PNG files, written atomically, and grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from PIL import Image
from torch import Tensor

from mar_accel.utils.whole_files import written_whole

# Grids enlarge smaller images by a whole factor, so that they can be seen.
READABLE_SIZE = 64


def image_name(index: int) -> str:
    """File name of sample ``index``; zero padding keeps file listings in order."""
    return f"{index:06d}.png"


def image_index(name: str) -> int | None:
    """Sample index of a file name; None unless it is exactly the name that ``image_name`` gives."""
    stem = name.removesuffix(".png")
    if not (stem.isascii() and stem.isdecimal()):
        return None
    return int(stem) if image_name(int(stem)) == name else None


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image [1 or 3, H, W] in 0..1 to an 8-bit grey or RGB image."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels[0].numpy() if pixels.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def save_png(image: Image.Image, path: Path, sync_name: bool = True) -> None:
    """Write a PNG file; see :func:`mar_accel.utils.whole_files.written_whole`."""
    with written_whole(path, sync_name) as temporary:
        image.save(temporary, format="PNG")


def is_whole_png(file: Path | IO[bytes], shape: Sequence[int]) -> bool:
    """Whether a file is an undamaged PNG of ``shape`` [1 or 3, H, W], as :func:`to_pil` makes it."""
    channels, height, width = shape
    try:
        # The checksums are checked without decoding, and pixels are decoded without the checksums.
        with Image.open(file, formats=["PNG"]) as image:
            image.verify()
        with Image.open(file, formats=["PNG"]) as image:
            if image.mode != ("L" if channels == 1 else "RGB") or image.size != (width, height):
                return False
            image.load()
    except Exception:  # Pillow raises anything on damaged data
        return False
    return True


def make_grid(images: Sequence[Image.Image], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Arrange images of equal size in a grid, row by row.

    Args:
        images: at least one image.
        columns: images per row. None: the smallest square grid that holds all images.
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
