"""Judges beyond Inception, on tiny networks with random weights; formulas against independent values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mar_accel.errors import ConfigError
from mar_accel.metrics import inception
from mar_accel.metrics.cmmd import cmmd
from mar_accel.metrics.frechet import gaussian_statistics
from mar_accel.metrics.inception import SpatialInceptionFeatures
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.metrics.reference import RealImages, Reference, ReferenceSource
from mar_accel.metrics.transformers_features import CLIPFeatures, DINOv2Features

transformers = pytest.importorskip("transformers")
IMAGES = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dinov2(tmp_path: Path) -> DINOv2Features:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2Config(image_size=28, patch_size=14, **sizes)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    return DINOv2Features(str(tmp_path), size=28)


@pytest.fixture
def clip(tmp_path: Path) -> CLIPFeatures:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(
        image_size=32, patch_size=16, intermediate_size=32, projection_dim=12, **sizes
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    return CLIPFeatures(str(tmp_path))


def test_dinov2_is_the_class_token_after_the_norm(dinov2: DINOv2Features) -> None:
    features = dinov2(IMAGES)
    assert features.pooled.shape == (4, 16) and features.logits.shape == (4, 0) and dinov2.dim == 16
    pixels = dinov2.prepare(IMAGES)
    assert pixels.shape == (4, 3, 28, 28)
    with torch.inference_mode():
        tokens = dinov2.network(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(features.pooled, tokens[:, 0])


def test_clip_embeddings_have_unit_length(clip: CLIPFeatures) -> None:
    pooled = clip(IMAGES).pooled
    assert pooled.shape == (4, 12) and clip.dim == 12
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(4))


def test_pixels_are_normalised(clip: CLIPFeatures) -> None:
    """A white image of the right size, grey or not, is (1 − mean)/std."""
    white = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    expected = [(1 - mean) / std for mean, std in zip(clip.mean, clip.std, strict=True)]
    assert clip.prepare(white)[0, :, 5, 5].tolist() == pytest.approx(expected, abs=1e-5)


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28
    )
    prints = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        transformers.Dinov2Model(config).save_pretrained(tmp_path)
        prints.append(DINOv2Features(str(tmp_path)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_fingerprint_follows_the_size(dinov2: DINOv2Features, tmp_path: Path) -> None:
    """Statistics of a reference are kept by it, and another size has other features."""
    images = RealImages([IMAGES], 4, None)
    source = ReferenceSource("digits", cache_dir=tmp_path / "cache")
    features = [
        source._cached("own", "content", extractor, "cpu", lambda: images).features
        for extractor in (dinov2, DINOv2Features(str(tmp_path), size=42), dinov2)
    ]
    assert not torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_wrong_weights_are_one_sentence(tmp_path: Path, clip: CLIPFeatures) -> None:
    with pytest.raises(ConfigError, match=r"features\.weights=/no/where cannot be loaded as Dinov2Model"):
        DINOv2Features("/no/where")
    with pytest.raises(ConfigError, match=r"features\.weights=.* (is no|cannot be loaded as) Dinov2Model"):
        DINOv2Features(str(tmp_path))


def test_cmmd_of_known_sets() -> None:
    """Two points at a distance d: MMD² = 2 − 2 exp(−d²/(2σ²))."""
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert cmmd(x, y, sigma=2.0) == pytest.approx(1000 * (2 - 2 * math.exp(-2 / 8)))
    assert cmmd(x, x) == 0 and cmmd(x, y) == pytest.approx(1000 * (2 - 2 * math.exp(-0.01)))


def test_cmmd_equals_the_sum_over_all_pairs() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 5)), generator.normal(size=(9, 5)) + 0.3

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([math.exp(-((p - q) ** 2).sum() / 200) for p in a for q in b]))

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-9)


def test_quality_has_cmmd_for_clip_alone(clip: CLIPFeatures, tmp_path: Path) -> None:
    pooled = torch.nn.functional.normalize(torch.randn(6, 12), dim=1)
    real = torch.nn.functional.normalize(torch.randn(8, 12), dim=1)
    images = FeatureSet(torch.arange(6), torch.full((6,), -1), pooled, torch.empty(6, 0))
    reference = Reference("real", gaussian_statistics(real), real)
    numbers = measure_quality(images, clip, reference).numbers
    assert numbers["cmmd"] == pytest.approx(cmmd(pooled, real))
    assert numbers["inception_score"] is None and numbers["fid"] is not None


class FakeInception(nn.Module):
    """A network with the block that sFID reads, and torch-fidelity's arguments and outputs."""

    def __init__(self, *arguments: Any):
        super().__init__()
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 192, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        small = nn.functional.adaptive_avg_pool2d(images.float(), 17)
        output = self.Mixed_6d.branch1x1(small)
        return output.mean((2, 3)), output.mean((2, 3))


def test_spatial_features_are_seven_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    monkeypatch.setattr(inception, "_network_class", lambda: FakeInception)
    extractor = SpatialInceptionFeatures(str(weights))
    features = extractor(IMAGES)
    assert features.pooled.shape == (4, 2023) == (4, extractor.dim)
    small = nn.functional.adaptive_avg_pool2d(IMAGES.float(), 17)
    expected = extractor.network.Mixed_6d.branch1x1(small)[:, :7].flatten(1)
    torch.testing.assert_close(features.pooled, expected)
