"""Cosine coefficients of blocks as latents."""

from __future__ import annotations

import numpy as np
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import draw_scene
from mar_accel.models.cosine import BLOCK, CosineAutoencoder

SCENES = 64


def _scenes() -> torch.Tensor:
    rng = np.random.default_rng(4)
    return SceneDrawer()([draw_scene(rng) for _ in range(SCENES)], rng)


def test_each_block_is_coded_for_itself() -> None:
    """So a token is a place of the image, and a change of one block changes one latent position only."""
    autoencoder, images = CosineAutoencoder(), torch.rand(2, 3, 16, 24)
    changed = images.clone()
    changed[:, :, 4:8, 8:12] = 1 - changed[:, :, 4:8, 8:12]
    differs = (autoencoder.encode(changed) != autoencoder.encode(images)).any(1)
    assert differs.shape == (2, 16 // BLOCK, 24 // BLOCK)
    assert differs.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]


def test_a_second_pass_changes_nothing() -> None:
    """What is left out is left out by encode; decode is its inverse on all latents."""
    autoencoder, latents = CosineAutoencoder(), torch.randn(2, 10, 4, 5)
    images = autoencoder.decode(latents)
    assert images.shape == (2, *autoencoder.image_shape((10, 4, 5)))
    torch.testing.assert_close(autoencoder.encode(images), latents)


def test_a_smooth_image_is_coded_without_loss() -> None:
    """Gradients of a block have frequencies of 0 to 3 in one direction, which are all kept."""
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    autoencoder = CosineAutoencoder()
    for images in (ramp, ramp.mT, torch.full((1, 3, 8, 8), 0.3)):
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images)


def test_scenes_keep_36_decibels_and_have_middle_deviations() -> None:
    autoencoder, images = CosineAutoencoder(), _scenes()
    latents = autoencoder.encode(images)
    error = (autoencoder.decode(latents) - images).square().mean().item()
    assert 35.5 < -10 * np.log10(error) < 36.5
    deviations = latents.transpose(0, 1).flatten(1).std(1)
    assert deviations.min().item() > 0.25 and deviations.max().item() < 1.15
    # In pixels, nearly all of an image is in the coefficients of the mean colours.
    mean, *others = (deviations.unflatten(0, (3, -1)) / autoencoder.scales.flatten()).mean(0).tolist()
    assert 2.5 < mean < 2.7 and max(others) < 0.45


def test_a_size_in_pixels_becomes_a_grid_of_blocks() -> None:
    settings = compose_settings("generate", ["model=scenes", "dataset=scenes", "model.image_size=[32,64]"])
    assert settings.model.architecture["grid"] == [32 // BLOCK, 64 // BLOCK]
