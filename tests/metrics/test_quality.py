"""The digit network, references and the combined object: broken input, warnings, caching, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel.data.digits import load_scans, random_affine, render
from mar_accel.data.image_sets import open_images
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics import reference as reference_module
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.features import quantise
from mar_accel.metrics.inception import InceptionFeatures
from mar_accel.metrics.quality import FeatureSet, measure_quality
from mar_accel.metrics.reference import Reference, ReferenceSource
from mar_accel.metrics.small_samples import bias_of_gaussian_draws


@pytest.fixture(scope="module")
def extractor() -> DigitFeatures:
    return DigitFeatures()


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """300 augmented digits, uint8 [300, 1, 32, 32], and their labels."""
    scans, labels = load_scans()
    affine = random_affine(300, torch.Generator().manual_seed(7))
    return quantise(render(scans[:300], affine)), labels[:300]


def _reference(folder: Path, extractor: DigitFeatures) -> Reference:
    return ReferenceSource("digits", cache_dir=str(folder)).load(extractor)


def _features(extractor: DigitFeatures, images: torch.Tensor, labels: torch.Tensor | None) -> FeatureSet:
    return FeatureSet.of(extractor(images), torch.arange(len(images)), labels)


def test_real_digits_are_recognised_and_noise_is_not(extractor, digits, tmp_path) -> None:
    images, labels = digits
    reference = _reference(tmp_path, extractor)
    real = measure_quality(_features(extractor, images, labels), extractor, reference).numbers
    noise_images = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    noise = measure_quality(_features(extractor, noise_images, labels), extractor, reference).numbers
    assert real["recognised"] > 0.98 and noise["recognised"] < 0.3
    assert real["fid"] < 10 and noise["fid"] > 50
    assert real["precision"] > 0.8 and noise["precision"] < 0.2
    assert real["kid"] < noise["kid"] and noise["inception_score"] < real["inception_score"] <= 10
    assert 0 < real["fid_bias"] < real["fid"] and 0 < real["fid_std_error"] < real["fid"]


def test_splitting_by_devices_changes_nothing(extractor, digits, tmp_path) -> None:
    images, labels = digits
    whole = FeatureSet.of(extractor(images), torch.arange(300), labels)
    devices = [torch.arange(rank, 300, 2) for rank in range(2)]
    parts = [
        FeatureSet.of(extractor(images[batch]), batch, labels[batch])
        for indices in devices
        for batch in indices.split(32)
    ]
    reference = _reference(tmp_path, extractor)
    one = measure_quality(whole, extractor, reference).numbers
    many = measure_quality(FeatureSet.join(parts), extractor, reference).numbers
    measured = {key: value for key, value in one.items() if value is not None}
    assert measured and {key: many[key] for key in measured} == pytest.approx(measured, rel=1e-4)
    assert many.keys() == one.keys()


def test_few_images_warn_with_the_size_of_the_bias(extractor, digits, tmp_path) -> None:
    images, labels = digits
    quality = measure_quality(
        _features(extractor, images[:50], labels[:50]), extractor, _reference(tmp_path, extractor)
    )
    assert any("biased" in text and f"{quality.numbers['fid_bias']:.3g}" in text for text in quality.warnings)
    assert quality.numbers["fid_bias"] > 1
    assert "50 real images of the same classes would get" in quality.warnings[0]
    unlabelled = measure_quality(
        _features(extractor, images[:50], None), extractor, _reference(tmp_path, extractor)
    )
    assert unlabelled.numbers["fid_bias"] > 2 * quality.numbers["fid_bias"]
    assert (
        "50 independent draws from the reference's Gaussian would get about "
        f"{unlabelled.numbers['fid_bias']:.3g}" in unlabelled.warnings[0]
    )
    with pytest.raises(DataError, match="at least 2"):
        measure_quality(_features(extractor, images[:1], labels[:1]), extractor, None)


def test_without_labels_or_reference_numbers_are_missing(extractor, digits) -> None:
    numbers = measure_quality(_features(extractor, digits[0], None), extractor, None).numbers
    assert numbers["recognised"] is None and numbers["fid"] is None and numbers["inception_score"] > 1


def test_adm_statistics_of_another_dimension_are_refused(extractor, tmp_path) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(DataError, match="2048 features but features=digits has 64"):
        ReferenceSource(str(tmp_path / "stats.npz")).load(extractor)


def test_adm_statistics_alone_give_fid_but_no_precision(extractor, digits, tmp_path) -> None:
    full = _reference(tmp_path, extractor)
    np.savez(
        tmp_path / "stats.npz", mu=full.statistics.mean.numpy(), sigma=full.statistics.covariance.numpy()
    )
    reference = ReferenceSource(str(tmp_path / "stats.npz"), cache_dir=str(tmp_path)).load(extractor)
    images = _features(extractor, *digits)
    quality = measure_quality(images, extractor, reference)
    assert quality.numbers["fid"] == pytest.approx(measure_quality(images, extractor, full).numbers["fid"])
    assert quality.numbers["precision"] is None
    assert any("only statistics" in text for text in quality.warnings)


def test_reference_is_cached_by_content(extractor, digits, tmp_path, monkeypatch) -> None:
    folder, cache = tmp_path / "images", tmp_path / "cache"
    folder.mkdir()
    for number, image in enumerate(digits[0][:20]):
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    source = ReferenceSource(str(folder), cache_dir=str(cache))
    first = source.load(extractor)
    calls = []
    monkeypatch.setattr(reference_module, "_compute", lambda *a: calls.append(a) or first)
    again = source.load(extractor)
    assert not calls and torch.equal(again.statistics.mean, first.statistics.mean)
    Image.fromarray(digits[0][21][0].numpy()).save(folder / "0.png")
    source.load(extractor)
    assert len(calls) == 1


def test_few_reference_images_warn_with_the_gaussians_bias(extractor, digits, tmp_path) -> None:
    np.savez(tmp_path / "few.npz", arr_0=digits[0][:60].permute(0, 2, 3, 1).numpy())
    reference = ReferenceSource(str(tmp_path / "few.npz"), cache_dir=str(tmp_path)).load(extractor)
    assert reference.labels is None
    quality = measure_quality(_features(extractor, *digits), extractor, reference)
    bias = bias_of_gaussian_draws(reference.statistics, 60)
    assert (
        len(quality.warnings) == 1 and f"Gaussian differ from it by about {bias:.3g}" in quality.warnings[0]
    )


@pytest.mark.parametrize("kept", [10_000, 1500])
def test_labels_of_digits_stay_beside_their_features_and_in_the_cache(
    extractor, tmp_path, monkeypatch, kept
) -> None:
    monkeypatch.setattr(reference_module, "MAX_KEPT_FEATURES", kept)
    source = ReferenceSource("digits", augmentations=1, cache_dir=str(tmp_path))
    first = source.load(extractor)
    images, labels = reference_module.digit_images(1)
    assert first.features is not None and first.labels is not None and len(first.labels) == min(kept, 1797)
    for feature, label in zip(extractor(images[:20]).pooled, labels[:20], strict=True):
        distance, nearest = (first.features - feature).norm(dim=1).min(dim=0)
        if distance < 1e-3:  # a chosen one
            assert first.labels[nearest] == label
    classes = first.labels.unique()
    means = torch.stack([first.features[first.labels == label].mean(dim=0) for label in classes])
    nearest_class = classes[torch.cdist(first.features, means).argmin(dim=1)]
    assert (nearest_class == first.labels).double().mean() > 0.97
    monkeypatch.setattr(reference_module, "_compute", lambda *_: pytest.fail("computed again"))
    again = source.load(extractor)
    assert again.labels is not None and again.labels.dtype == torch.int64
    assert torch.equal(again.labels, first.labels) and torch.equal(again.features, first.features)


def test_reference_without_labels_has_none_in_the_cache(extractor, digits, tmp_path) -> None:
    np.savez(tmp_path / "real.npz", arr_0=digits[0][:80].permute(0, 2, 3, 1).numpy())
    source = ReferenceSource(str(tmp_path / "real.npz"), cache_dir=str(tmp_path))
    assert source.load(extractor).labels is None and source.load(extractor).labels is None


def test_cache_of_another_version_is_not_read(extractor, tmp_path, monkeypatch) -> None:
    assert reference_module.CACHE_VERSION == 2
    monkeypatch.setattr(reference_module, "CACHE_VERSION", 1)
    old = _reference(tmp_path, extractor)
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(reference_module, "_compute", lambda *a: calls.append(a) or old)
    _reference(tmp_path, extractor)
    assert len(calls) == 1


def test_a_file_that_does_not_exist_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz does not exist"):
        ReferenceSource("nowhere.npz").check()


# -- images on disk --------------------------------------------------------------------------------


def test_empty_folder_and_missing_path(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no images .*; choose another folder"):
        open_images(tmp_path)
    with pytest.raises(DataError, match=r"must be a folder of images, an \.npz file or a run folder"):
        open_images(tmp_path / "nothing")


def test_images_of_another_size_are_named(tmp_path, extractor) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    Image.new("L", (16, 32)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png must be .* got 16×32"):
        list(open_images(tmp_path).batches(2))
    with pytest.raises(DataError, match="got 64×64"):
        extractor(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_damaged_image_is_named(tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        open_images(tmp_path).first(1)


def test_npz_of_uint8_and_of_floats_agree_and_nan_is_refused(tmp_path, digits) -> None:
    pixels = digits[0][:5].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=digits[1][:5].numpy())
    np.savez(tmp_path / "b.npz", arr_0=pixels.astype(np.float32) / 255)
    images = open_images(tmp_path / "a.npz")
    assert torch.equal(images.first(5), digits[0][:5])
    assert images.labels is not None and images.labels.tolist() == digits[1][:5].tolist()
    assert torch.equal(open_images(tmp_path / "b.npz").first(5), digits[0][:5])
    broken = pixels.astype(np.float32) / 255
    broken[3, 0, 0] = np.nan
    np.savez(tmp_path / "c.npz", arr_0=broken)
    with pytest.raises(DataError, match="image 3 has NaN"):
        open_images(tmp_path / "c.npz").first(5)


def test_nan_pixels_of_a_sampler_are_refused() -> None:
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="1 of 3 images"):
        quantise(images)


# -- extractors ------------------------------------------------------------------------------------


def test_held_out_accuracy_is_that_of_the_card(extractor) -> None:
    """The split of the training command: 359 scans that the network has never seen."""
    scans, labels = load_scans()
    held_out = torch.randperm(len(scans), generator=torch.Generator().manual_seed(0))[:359]
    logits = extractor(quantise(scans[held_out])).logits
    assert float((logits.argmax(dim=1) == labels[held_out]).double().mean()) >= 0.99


def test_wrong_weights_of_the_digit_network(tmp_path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"features\.weights"):
        DigitFeatures(str(tmp_path / "x.safetensors"))


def test_missing_inception_weights_say_which_file_goes_where(tmp_path) -> None:
    with pytest.raises(ConfigError, match="weights-inception-2015-12-05-6726825d") as error:
        InceptionFeatures(str(tmp_path / "none.pth"))
    assert str(tmp_path / "none.pth") in str(error.value)
