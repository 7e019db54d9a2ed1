"""Agreement with the unaccelerated images of the same seed."""

from __future__ import annotations

import math

import pytest
import torch

from mar_accel.errors import DataError
from mar_accel.metrics.catalogue import EQUAL_IMAGES_PSNR
from mar_accel.metrics.fidelity import difference_images, fidelity


def _images(seed: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)


def test_psnr_of_each_image_follows_its_definition() -> None:
    a, b = _images(0), _images(1)
    mse = (a.double() / 255 - b.double() / 255).square().flatten(1).mean(dim=1)
    expected = [10 * math.log10(1 / float(value)) for value in mse]
    assert fidelity(a, b).psnr.tolist() == pytest.approx(expected)


def test_equal_images_are_finite_and_above_all_others() -> None:
    a = _images(0)
    almost = a.clone()
    almost[0, 0, 0, 0] ^= 1
    result = fidelity(almost, a, torch.zeros(3, 4, 2), torch.ones(3, 4, 2) * 2)
    assert result.psnr[1:].tolist() == [EQUAL_IMAGES_PSNR] * 2
    assert result.psnr[0] < EQUAL_IMAGES_PSNR
    assert result.ssim[1:].tolist() == pytest.approx([1, 1])
    assert result.latent_mse is not None and result.latent_mse.tolist() == [4.0] * 3
    assert result.summary()["latent_mse"] == 4.0


def test_ssim_falls_with_noise() -> None:
    clean = torch.full((1, 1, 32, 32), 128, dtype=torch.uint8)
    clean[:, :, 8:24, 8:24] = 255
    noise = _images(2, 1) // 8
    assert 0 < float(fidelity(clean // 2 + noise, clean // 2).ssim) < 0.95


def test_images_of_other_sizes_or_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        fidelity(_images(0), _images(0)[:2])


def test_difference_is_absolute() -> None:
    a, b = torch.tensor([0, 255, 10], dtype=torch.uint8), torch.tensor([255, 0, 7], dtype=torch.uint8)
    assert difference_images(a, b).tolist() == [255, 255, 3]
