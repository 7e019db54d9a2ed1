"""Inpainting and outpainting: images whose unmasked tokens are known before the first AR step (ours).

A token is unknown if any pixel of its cell is masked. The known tokens are those of the encoded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.image_sets import SUFFIXES, ImageFolder
from mar_accel.data.pictures import has_transparency, read_image
from mar_accel.errors import ConfigError, DataError
from mar_accel.models.sizes import check_bytes

# Shares (top, bottom, left, right) of an image outside of which pixels are masked, or inside of which.
BOXES = {
    "center": (0.25, 0.75, 0.25, 0.75),
    "top": (0.0, 0.5, 0.0, 1.0),
    "bottom": (0.5, 1.0, 0.0, 1.0),
    "left": (0.0, 1.0, 0.0, 0.5),
    "right": (0.0, 1.0, 0.5, 1.0),
    "outside": (0.25, 0.75, 0.25, 0.75),
}


@dataclass(frozen=True)
class Inpainting:
    """Images and masks. Sample i takes image i mod N and mask i mod M.

    Attributes:
        images: float32 [N, 1 or 3, H, W] in 0..1, of the size and channels that the model makes.
        masks: bool [M, H, W], true where the image is to be made.
        keep_pixels: put the given pixels back outside the mask.

    Example:
        >>> Inpainting(torch.rand(1, 1, 32, 32), box_mask("center", 32, 32)[None])
    """

    images: Tensor
    masks: Tensor
    keep_pixels: bool = True

    def images_of(self, indices: Sequence[int]) -> Tensor:
        """Images [B, C, H, W] of some samples."""
        return self.images[[index % len(self.images) for index in indices]]

    def masks_of(self, indices: Sequence[int]) -> Tensor:
        """Masks [B, H, W] of some samples."""
        return self.masks[[index % len(self.masks) for index in indices]]

    def with_kept_pixels(self, images: Tensor, indices: Sequence[int]) -> Tensor:
        """Sampled images [B, C, H, W] with the given pixels outside the masks, if they are kept."""
        if not self.keep_pixels:
            return images
        given = self.images_of(indices).to(images)
        return torch.where(self.masks_of(indices).to(images.device).unsqueeze(1), images, given)


def unknown_tokens(masks: Tensor, indices: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Whether each token of some samples is unknown, bool [B, L]; of masks [M, H, W] sample i has i mod M."""
    chosen = masks[[index % len(masks) for index in indices]]
    return F.adaptive_max_pool2d(chosen.float().unsqueeze(1), grid).flatten(1) > 0


def load_inpainting(dataset: DatasetSettings, shape: tuple[int, ...]) -> Inpainting:
    """The images and masks of a config that has them.

    Args:
        dataset: ``images`` is an image file or a folder; ``mask`` a name of :data:`BOXES`, an image file or a
            folder. White pixels of a mask are to be made.
        shape: channels, height and width that the model makes.

    Raises:
        DataError: an image cannot be read.
        ConfigError: an image does not fit the model, or a mask marks nothing.
    """
    assert dataset.images is not None
    pixels, _ = _pictures("dataset.images", dataset.images, dataset.num_images)
    images = fitting_images("dataset.images", pixels / 255, shape)
    return Inpainting(images, load_masks(dataset, shape[1:]), dataset.keep_pixels)


def load_masks(dataset: DatasetSettings, size: tuple[int, ...]) -> Tensor:
    """The masks bool [M, H, W] of a config that has them.

    Args:
        dataset: see :func:`load_inpainting`.
        size: height and width that the model makes.

    Raises:
        ConfigError, DataError: see :func:`load_inpainting`.
    """
    if dataset.mask is None:
        raise ConfigError(f"dataset.mask is not set; use {', '.join(BOXES)}, an image file or a folder.")
    if dataset.mask in BOXES:
        return box_mask(dataset.mask, *size)[None]
    pixels, files = _pictures("dataset.mask", dataset.mask, dataset.num_images)
    _check_opaque("dataset.mask", files)
    return fitting_masks("dataset.mask", pixels, size)


def box_mask(name: str, height: int, width: int) -> Tensor:
    """A mask [H, W] by name: a half, the ``center`` (a quarter of the area), or all ``outside`` of it."""
    top, bottom, left, right = BOXES[name]
    mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return ~mask if name == "outside" else mask


def fitting_images(key: str, images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [N, C, H, W] with the model's channels; raises ConfigError for another size."""
    channels, height, width = shape
    _check_size(key, images, height, width)
    if images.shape[1] == channels:
        return images
    return images.mean(dim=1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)


def fitting_masks(key: str, masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Masks bool [M, H, W] of pictures [M, C, H, W] in 0..255; raises ConfigError for size or colours."""
    _check_size(key, masks, *size)
    if (masks != masks[:, :1]).any():
        raise ConfigError(
            f"{key} must be black and white, got channels that differ; several masks are a list, or have the "
            "shape [M, 1, H, W]."
        )
    marked = masks[:, 0].float() > 127
    if not marked.flatten(1).any(dim=1).all():
        raise ConfigError(
            f"{key} must mark at least one pixel of every image, but one mask marks none; draw in white what "
            "is to be made."
        )
    return marked


def _check_size(key: str, images: Tensor, height: int, width: int) -> None:
    if images.shape[-2:] != (height, width):
        rows, columns = images.shape[-2:]
        raise ConfigError(
            f"{key} must have the model's size of {height}x{width} pixels, got {rows}x{columns}; resize it."
        )


def _pictures(key: str, value: str, count: int) -> tuple[Tensor, list[Path]]:
    """The image of a file, or the first images of a folder, uint8 [N, C, H, W]; and their files."""
    path = Path(value).expanduser()
    if path.is_dir():
        # Files below are no images of this folder; a run may even write there.
        folder = ImageFolder(path, key=key, below=False)
        keys = folder.keys[:count]
        # In float32, once read and once as a copy.
        check_bytes(f"{key}={value}", 8 * len(keys) * folder.at(keys[:1]).numel())
        return folder.at(keys), folder.files[:count]
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return read_image(path)[None], [path]
    raise DataError(f"{key}={value} is not an image file or a folder of images; check the path.")


def _check_opaque(key: str, files: Sequence[Path]) -> None:
    for file in filter(has_transparency, files):
        raise DataError(
            f"{key}: {file} is transparent in places, but only black and white count; remove its "
            "alpha channel."
        )
