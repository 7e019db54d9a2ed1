"""Images on disk: read exactly, paired by sample index, and refused in one sentence if they are odd."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mar_accel.config.compose import compose_settings
from mar_accel.data.image_sets import open_images
from mar_accel.data.pictures import read_image
from mar_accel.errors import DataError
from mar_accel.evaluation.baseline import Sampled, open_baseline
from mar_accel.evaluation.comparison import compare_with_folder
from mar_accel.evaluation.result import Evaluation
from mar_accel.metrics.catalogue import METRICS
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.fidelity import EQUAL_IMAGES_PSNR
from mar_accel.metrics.frechet import frechet_distance, gaussian_statistics
from mar_accel.metrics.reference import ReferenceSource
from mar_accel.runs.identity import Identity
from mar_accel.utils.images import image_index, image_name


def _png(width: int, height: int, bits: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG file with the given header and pixel data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# -- pictures ----------------------------------------------------------------------------------------------


def test_16_bit_grey_is_rounded_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65535, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    expected = (values.astype(float) / 257).round().astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "x.png").numpy(), expected[None])


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "60,000 squared": (_write(_png(60_000, 60_000)), "has too many pixels"),
    "16-bit colour": (_write(_png(1, 1, 16, 2, b"\0" * 7)), "has more than 8 bits per channel"),
    # Pillow would warn of it on stderr, as a second sentence.
    "12,000 squared": (_write(_png(12_000, 12_000)), "cannot be read as an image"),
    "no pixels": (_write(_png(32, 32)), "cannot be read as an image"),
    "width 0": (_write(_png(0, 32)), "cannot be read as an image"),
    "empty": (_write(b""), "cannot be read as an image"),
    "text": (_write(b"hello"), "cannot be read as an image"),
    "pipe": (os.mkfifo, "is not a file that can be read"),
    "folder": (Path.mkdir, "is not a file that can be read"),
}


@pytest.mark.parametrize(("make", "words"), BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_odd_picture_is_refused(
    tmp_path: Path, make: Callable[[Path], object], words: str, recwarn: pytest.WarningsRecorder
) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(DataError, match=rf"x\.png {words}"):
        read_image(tmp_path / "x.png")
    assert not recwarn.list


@pytest.mark.parametrize(
    "name", ["5.png", "٥.png", "²5.png", "0000005.png", "000005.PNG", "x.png", "-00005.png"]
)
def test_only_the_name_made_from_an_index_has_one(name: str) -> None:
    assert image_index(name) is None


@pytest.mark.parametrize("index", [0, 5, 999_999, 1_000_000])
def test_name_of_an_index(index: int) -> None:
    assert image_index(image_name(index)) == index


# -- pairs -------------------------------------------------------------------------------------------------


def _pixels(index: int) -> np.ndarray:
    return np.full((8, 8), 7 * index + 1, dtype=np.uint8)


def _folder(path: Path, names: dict[str, int], record: dict[str, Any] | None = None) -> Path:
    """A folder of images by name, whose pixels tell their index; with a record it is a run."""
    images = path / "images" if record is not None else path
    images.mkdir(parents=True)
    for name, index in names.items():
        Image.fromarray(_pixels(index)).save(images / name)
    if record is not None:
        (path / "run.json").write_text(json.dumps(record))
    return path


def _psnr(ours: Path, baseline: Path) -> Evaluation:
    """Fidelity of one folder to another, as ``evaluate.images`` and ``evaluate.baseline`` do."""
    settings = compose_settings("evaluate", [f"evaluate.baseline='{baseline}'"])
    images, evaluation = open_images(ours), Evaluation({})
    sampled = Sampled.of(settings, Identity.of(settings))
    found = open_baseline(settings.evaluate, sampled, "x", images.keys)
    assert found is not None
    labels = torch.zeros(images.num_images, dtype=torch.long)
    tokens = images.tokens_of(images.keys)
    compare_with_folder(evaluation, images.at(images.keys), tokens, labels, images.keys, found)
    return evaluation


PADDED = {image_name(index): index for index in range(12)}
PAIRED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "unpadded names": (PADDED, {f"{index}.png": index for index in range(12)}),
    "gap in the images": ({image_name(index): index for index in (0, 3, 11)}, PADDED),
    "more in the baseline": ({image_name(0): 0}, PADDED),
    "past a million": ({image_name(i): i % 30 for i in (999_999, 10**6)},) * 2,
    "names that are no numbers": ({"b.png": 1, "a.png": 2}, {"a.png": 2, "b.png": 1, "c.png": 3}),
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRED.values(), ids=PAIRED.keys())
def test_images_are_paired_by_their_index(
    tmp_path: Path, ours: dict[str, int], theirs: dict[str, int]
) -> None:
    evaluation = _psnr(_folder(tmp_path / "a", ours), _folder(tmp_path / "b", theirs))
    assert evaluation.metrics["psnr"] == EQUAL_IMAGES_PSNR
    assert evaluation.metrics["fidelity_images"] == len(ours)
    assert evaluation.comparison is not None
    indices = sorted(index for name in ours if (index := image_index(name)) is not None)
    assert list(evaluation.comparison.keys) == (indices or sorted(ours))


UNPAIRED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "gap in the baseline": (PADDED, {name: index for name, index in PADDED.items() if index not in (3, 4)}),
    "fewer in the baseline": (PADDED, {image_name(0): 0}),
    "other names": (PADDED, {f"cat{index}.png": index for index in range(12)}),
}


@pytest.mark.parametrize(("ours", "theirs"), UNPAIRED.values(), ids=UNPAIRED.keys())
def test_image_without_a_partner_is_refused(
    tmp_path: Path, ours: dict[str, int], theirs: dict[str, int]
) -> None:
    with pytest.raises(
        DataError, match=r"evaluate\.baseline=\S+ lacks \d+ of 12 images to compare, first \d+"
    ):
        _psnr(_folder(tmp_path / "a", ours), _folder(tmp_path / "b", theirs))


def test_npz_is_paired_by_position(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", arr_0=np.stack([_pixels(index) for index in range(12)])[..., None])
    evaluation = _psnr(_folder(tmp_path / "a", {image_name(7): 7}), tmp_path / "b.npz")
    assert evaluation.metrics["psnr"] == EQUAL_IMAGES_PSNR


def test_tokens_belong_to_sample_indices(tmp_path: Path) -> None:
    tokens = torch.arange(12.0).reshape(12, 1, 1)
    for name, indices in (("a", (2, 5)), ("b", range(12))):
        (tmp_path / name / "images").mkdir(parents=True)
        for index in indices:
            Image.fromarray(_pixels(index)).save(tmp_path / name / "images" / image_name(index))
        save_file({"tokens": tokens}, tmp_path / name / "tokens.safetensors")
    assert _psnr(tmp_path / "a", tmp_path / "b").metrics["latent_mse"] == 0


# -- runs --------------------------------------------------------------------------------------------------


def test_run_has_only_images_with_names_that_it_gives(tmp_path: Path) -> None:
    record = {"config": {"dataset": {"labels": [4, 6], "num_classes": 10}}}
    names = {image_name(1): 1, "5.png": 5, "cover.png": 9, image_name(0): 0}
    images = open_images(_folder(tmp_path / "run", names, record))
    assert list(images.keys) == [0, 1] and images.num_images == 2
    assert images.labels is not None and images.labels.tolist() == [4, 6]
    assert torch.equal(images.first(2)[1, 0], torch.from_numpy(_pixels(1)))


def _dataset(**values: Any) -> str:
    return json.dumps({"config": {"dataset": {"labels": None, "num_classes": 10, **values}}})


BAD_RUNS: dict[str, tuple[str, bytes, str]] = {
    "no classes": ("run.json", _dataset(num_classes=0).encode(), "is not a valid run record"),
    "text for labels": ("run.json", _dataset(labels="three").encode(), "is not a valid run record"),
    "no text": ("run.json", b"\xff\xfe", "is not a valid run record"),
    "too deep": ("run.json", b"[" * 100_000, "is not a valid run record"),
    "no labels": ("run.json", _dataset(labels=[]).encode(), "is not a valid run record"),
    "tokens of 0 bytes": ("tokens.safetensors", b"", "cannot be read as tokens"),
    "damaged tokens": ("tokens.safetensors", b'\x08\0\0\0\0\0\0\0{"a":1}x', "cannot be read as tokens"),
    "endless tokens": ("tokens.safetensors", b"\xff" * 64, "cannot be read as tokens"),
}


@pytest.mark.parametrize(("name", "content", "words"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_damaged_run_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    _folder(tmp_path / "run", {image_name(0): 0}, json.loads(_dataset()))
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_images(tmp_path / "run")


def test_more_classes_than_memory_has(tmp_path: Path) -> None:
    record = json.loads(_dataset(num_classes=10**15))
    images = open_images(_folder(tmp_path / "run", {image_name(3): 3}, record))
    assert images.labels is not None and images.labels.tolist() == [3]


# -- .npz --------------------------------------------------------------------------------------------------

IMAGES = np.zeros((3, 8, 8, 1), dtype=np.uint8)
BAD_NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "2-d labels": ({"arr_0": IMAGES, "arr_1": np.eye(3, dtype=int)}, r"arr_1 must have one integer label"),
    "text for labels": ({"arr_0": IMAGES, "arr_1": np.array(["a", "b", "c"])}, "arr_1 must have one integer"),
    "floats for labels": ({"arr_0": IMAGES, "arr_1": np.array([0.5, 1, 2])}, "arr_1 must have one integer"),
    "too few labels": ({"arr_0": IMAGES, "arr_1": np.array([1])}, "arr_1 must have one integer label"),
    "text for images": ({"arr_0": np.full((3, 8, 8, 1), "a")}, "arr_0 must be uint8"),
    "complex images": ({"arr_0": IMAGES.astype(complex)}, "arr_0 must be uint8"),
    "objects": ({"arr_0": np.array([None])}, "cannot be read as an .npz|truncated or damaged"),
    "other names": ({"images": IMAGES}, "must have the images in arr_0, got images"),
}


@pytest.mark.parametrize(("arrays", "words"), BAD_NPZ.values(), ids=BAD_NPZ.keys())
def test_odd_npz_is_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=words):
        open_images(tmp_path / "x.npz")


def _npz_that_claims(path: Path, shape: tuple[int, ...], content: bytes, times: int = 1) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(times):
            file.write(content)
    return path


def test_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    side, count = 1 << 12, 17
    path = _npz_that_claims(tmp_path / "x.npz", (count, side, side, 1), b"\0" * side * side, count)
    with pytest.raises(DataError, match=r"unpacks to 0\.3 GB from"):
        open_images(path)


def test_npz_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = _npz_that_claims(tmp_path / "x.npz", (10**6, 256, 256, 3), b"\0")
    with pytest.raises(DataError, match="arr_0 is truncated or damaged"):
        open_images(path)


def test_array_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=IMAGES, other=np.array([None]))
    assert open_images(tmp_path / "x.npz").num_images == 3


SQUARE = np.eye(DigitFeatures.dim)
BAD_STATISTICS: dict[str, tuple[Any, Any, str]] = {
    "text": (np.full(64, "a"), SQUARE, "must hold numbers in mu and sigma"),
    "complex": (np.zeros(64, dtype=complex), SQUARE, "must hold numbers in mu and sigma"),
    "no covariance": (np.zeros(64), np.tril(np.ones((64, 64))), "holds a sigma that is no covariance"),
    "negative variance": (np.zeros(64), -SQUARE, "holds a sigma that is no covariance"),
    "nan": (np.full(64, np.nan), SQUARE, "holds NaN"),
    "vector": (np.zeros(64), np.zeros(64), "must hold mu"),
}


@pytest.mark.parametrize(("mu", "sigma", "words"), BAD_STATISTICS.values(), ids=BAD_STATISTICS.keys())
def test_odd_statistics_are_refused(tmp_path: Path, mu: Any, sigma: Any, words: str) -> None:
    np.savez(tmp_path / "x.npz", mu=mu, sigma=sigma)
    with pytest.raises(DataError, match=words):
        ReferenceSource(str(tmp_path / "x.npz")).load(DigitFeatures())


@pytest.mark.parametrize("name", ["pipe", "pipe.npz", "/dev/zero"])
def test_source_that_never_ends(tmp_path: Path, name: str) -> None:
    if not name.startswith("/"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        open_images(tmp_path / name)
    with pytest.raises(DataError):
        ReferenceSource(str(tmp_path / name)).load(DigitFeatures())


def test_distance_of_a_set_to_itself_is_not_negative() -> None:
    for seed in range(20):
        features = torch.randn(200, 8, generator=torch.Generator().manual_seed(seed))
        statistics = gaussian_statistics(features)
        assert frechet_distance(statistics, statistics) >= 0
    shown = {metric.key: metric for metric in METRICS}
    assert shown["fid"].text({"fid": -1e-12}) == "0.000"
    assert shown["kid"].text({"kid": -2e-3}) == "-2.000"
