"""The size of images in pixels, as an alternative to the grid of tokens."""

from __future__ import annotations

from typing import Any

from mar_accel.errors import ConfigError

KEY = "model.image_size"
# Pixels per latent pixel: by the layout of a KL autoencoder, and by the class of one without weights.
STRIDES = {"kl16": 16, "sd3": 8, "mar_accel.models.cosine.CosineAutoencoder": 4}


def put_grid_in(model: dict[str, Any]) -> None:
    """Replace ``image_size`` in the values of the group ``model`` by the grid of tokens.

    Raises:
        ConfigError: a side is not a multiple of a token's side in pixels.
    """
    size = model.get("image_size")
    if size is None:
        return
    sides = [size, size] if not isinstance(size, list) else size
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(f"{KEY} must be a number of pixels, or height and width, got {size}.")
    autoencoder = model["autoencoder"]
    stride = STRIDES.get(autoencoder.get("layout", autoencoder.get("_target_")), 1)
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
