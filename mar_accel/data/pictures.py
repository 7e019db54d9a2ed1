"""Image files: read as 8-bit grey or RGB, or refused in one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mar_accel.errors import DataError

_GREY = ("1", "L")
# Grey values of 16 bits. Pillow names the byte order.
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


def read_picture(file: Path) -> Image.Image:
    """Read an image file in mode L or RGB.

    Grey values of 16 bits are rounded to 8 bits: 65535 is white.
    The alpha channel is dropped.

    Raises:
        DataError: the file is damaged, too large, or has values that 8 bits cannot hold.
    """
    if not file.is_file():
        raise DataError(f"{file} is not a file that can be read; replace or remove it.")
    try:
        with warnings.catch_warnings():
            # A large image is as good as a small one; a much larger one is refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
            if image.mode in _GREY_16 or (image.mode == "I" and deep):
                values = np.asarray(image).astype(np.uint32)
                return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
            if deep or image.mode in ("I", "F"):
                raise DataError(
                    f"{file} has more than 8 bits per channel, which only grey may have; convert it."
                )
            return image.convert("L" if image.mode in _GREY else "RGB")
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{file} has too many pixels to be read safely; replace or remove it.") from error
    except Exception as error:  # a decoder on damaged data may raise anything
        raise DataError(f"{file} cannot be read as an image; replace or remove it.") from error


def read_image(file: Path) -> Tensor:
    """Read an image file as uint8 [1 or 3, H, W]; raises DataError like ``read_picture``."""
    tensor = torch.from_numpy(np.array(read_picture(file)))
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def has_transparency(file: Path) -> bool:
    """Whether a readable image file has pixels that are not opaque."""
    with Image.open(file) as image:
        return is_transparent(image)


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has pixels that are not opaque."""
    if not image.has_transparency_data:
        return False
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    return bool((alpha < 255).any())
