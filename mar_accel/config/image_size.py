"""The size of images in pixels, as an alternative to the grid of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mar_accel.config.check import locate
from mar_accel.config.settings import ModelSettings
from mar_accel.errors import ConfigError

KEY = "model.image_size"
# Pixels per latent pixel, by class or loader. A class of one's own has the attribute ``stride``.
STRIDES = {
    "mar_accel.models.autoencoders.PixelAutoencoder": 1,
    "mar_accel.models.cosine.CosineAutoencoder": 4,
    "mar_accel.weights.loading.load_kl_autoencoder": 16,
    "mar_accel.weights.dc_autoencoder.load_dc_autoencoder": 32,
    "mar_accel.weights.detok.load_detok": 16,
}
# Those of KL autoencoders with another layout.
LAYOUTS = {"sd3": 8}


def put_grid_in(model: dict[str, Any]) -> None:
    """Replace ``image_size`` in the values of the group ``model`` by the grid of tokens.

    Raises:
        ConfigError: a side is not a multiple of a token's side in pixels, or the stride of the autoencoder is
            not known.
    """
    size = model.get("image_size")
    if size is None:
        return
    sides = [size, size] if not isinstance(size, list) else size
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"{KEY} must be a number of pixels, or height and width, got {size}.")
    stride = _stride(model["autoencoder"])
    patch = model["architecture"]["patch_size"]
    token = stride * patch
    for side in sides:
        if side % token:
            near = [n for n in (side // token * token, (side // token + 1) * token) if n]
            raise ConfigError(
                f"{KEY} must have multiples of {token} pixels (stride {stride} of the autoencoder times "
                f"patch size {patch}), got {side}; use {' or '.join(map(str, near))}."
            )
    model["architecture"]["grid"] = [side // token for side in sides]
    model["image_size"] = None


def size_in_pixels(model: ModelSettings) -> tuple[int, int]:
    """Height and width of the images that a model makes, from its grid.

    Raises:
        ConfigError: the stride of the autoencoder is not known.
    """
    height, width = model.architecture["grid"]
    side = _stride(model.autoencoder) * model.architecture["patch_size"]
    return height * side, width * side


def _stride(autoencoder: Mapping[str, Any]) -> int:
    """Pixels per latent pixel of an autoencoder; raises ConfigError if it does not tell them."""
    target = str(autoencoder.get("_target_"))
    known = LAYOUTS.get(str(autoencoder.get("layout"))) or STRIDES.get(target)
    stride = known or getattr(locate("model.autoencoder", target), "stride", None)
    if not isinstance(stride, int):
        raise ConfigError(
            f"model.autoencoder._target_={target} has no attribute stride, the pixels per latent pixel, "
            f"which {KEY} and the FLOPs of inpainting need; give it one."
        )
    return stride
