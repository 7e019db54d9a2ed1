"""Cached statistics of a reference: a file that is damaged, or of another kind, is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.reference import Reference, ReferenceSource
from mar_accel.metrics.scene_reference import SceneReference

Tensors = dict[str, Tensor]


def _with(**changes: Callable[[Tensor], Tensor]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        tensors = load(content)
        return save({**tensors, **{key: own(tensors[key]).contiguous() for key, own in changes.items()}})

    return change


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "other features": _with(features=lambda f: f[:, :3]),
    "one row": _with(features=lambda f: f[0]),
    "no row": _with(features=lambda f: f[:0]),
    "other mean": _with(mean=lambda m: m[:3]),
    "other covariance": _with(covariance=lambda c: c[:3]),
    "float32": _with(mean=lambda m: m.float()),
    "integers": _with(features=lambda f: f.to(torch.int32)),
    "two counts": _with(count=lambda n: torch.stack([n, n])),
    "no count": _with(count=lambda n: n * 0),
    "few labels": _with(labels=lambda y: y[:3]),
    "nan": _with(mean=lambda m: m * float("nan")),
    "infinite": _with(features=lambda f: f + float("inf")),
}


@pytest.fixture(scope="module")
def extractor() -> DigitFeatures:
    return DigitFeatures()


@pytest.fixture(scope="module")
def cached(extractor: DigitFeatures, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    folder = tmp_path_factory.mktemp("cache")
    reference = ReferenceSource("digits", cache_dir=str(folder)).load(extractor)
    (file,) = folder.iterdir()
    return file, reference


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_cache_is_made_again(
    damage: Callable[[bytes], bytes],
    cached: tuple[Path, Reference],
    extractor: DigitFeatures,
    tmp_path: Path,
) -> None:
    file, reference = cached
    copy = tmp_path / file.name
    copy.write_bytes(damage(file.read_bytes()))
    again = ReferenceSource("digits", cache_dir=str(tmp_path)).load(extractor)
    assert reference.features is not None and again.features is not None
    assert torch.equal(again.features, reference.features)
    assert torch.equal(again.statistics.covariance, reference.statistics.covariance)
    torch.testing.assert_close(load_file(copy), load_file(file), rtol=0, atol=0)


def test_a_whole_cache_is_used(
    cached: tuple[Path, Reference], extractor: DigitFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reference = cached
    source = ReferenceSource("digits", cache_dir=str(file.parent))
    monkeypatch.setattr(source, "_digits", lambda: pytest.fail("it is computed again"))
    assert source.load(extractor).statistics.count == reference.statistics.count


def test_a_cache_that_cannot_be_written_costs_no_reference(extractor: DigitFeatures, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reference = ReferenceSource("digits", cache_dir=str(tmp_path / "file")).load(extractor)
    assert reference.features is not None and len(reference.features) == reference.statistics.count


def _correlated(value: float) -> np.ndarray:
    sigma = np.eye(DigitFeatures.dim)
    sigma[0, 1] = sigma[1, 0] = value
    return sigma


@pytest.mark.parametrize("value", [1.01, -5.0, 1e30])
def test_a_matrix_that_is_no_covariance_is_refused(
    value: float, extractor: DigitFeatures, tmp_path: Path
) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(extractor.dim), sigma=_correlated(value))
    with pytest.raises(DataError, match=r"s\.npz holds a sigma that is no covariance; replace the file"):
        ReferenceSource(str(tmp_path / "s.npz")).load(extractor)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_full_correlation_is_a_covariance(dtype: type, extractor: DigitFeatures, tmp_path: Path) -> None:
    sigma = (1e4 * _correlated(1.0)).astype(dtype)
    np.savez(tmp_path / "s.npz", mu=np.zeros(extractor.dim, dtype), sigma=sigma)
    assert ReferenceSource(str(tmp_path / "s.npz")).load(extractor).statistics.covariance[0, 1] == 1e4


def test_a_single_image_is_no_reference(extractor: DigitFeatures, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", arr_0=np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"reference\.source=\S+one\.npz has a single image"):
        ReferenceSource(str(tmp_path / "one.npz"), cache_dir=str(tmp_path)).load(extractor)


def test_scenes_that_would_never_be_drawn_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"reference\.num_images must be between 2 and 1,000,000, got"):
        SceneReference(num_images=10**12)
