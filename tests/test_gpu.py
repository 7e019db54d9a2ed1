"""What has to hold on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.runs.generation import generate

# One level of 255: sums are taken in another order on another device.
ONE_LEVEL = 1


def _pixels(folder: Path, overrides: list[str]) -> np.ndarray:
    generate(compose_settings("generate", [*overrides, "dataset.num_images=4", f"output_dir={folder}"]))
    images = [Image.open(path) for path in sorted((folder / "images").glob("*.png"))]
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.gpu
@pytest.mark.parametrize("method", [["sampler=mar", "cache=none"], ["sampler=gtr", "cache=lazymar"]], ids=str)
def test_gpu_and_cpu_sample_the_same_images(method: list[str], tiny_model: list[str], tmp_path: Path) -> None:
    overrides = [*method, *tiny_model]
    cpu = _pixels(tmp_path / "cpu", [*overrides, "trainer=cpu"])
    precision = ["trainer=gpu", "trainer.devices=1", "trainer.precision=32-true"]
    gpu = _pixels(tmp_path / "gpu", [*overrides, *precision])
    assert np.abs(gpu - cpu).max() <= ONE_LEVEL
    assert cpu.std() > 20, "black images would agree as well"
