"""Images on disk: a folder, an .npz file in the format of ADM's evaluator, or a run folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mar_accel.data.npz import array_names, load_npz
from mar_accel.data.pictures import read_image
from mar_accel.data.run_files import IMAGES, RECORD_FILE, TOKENS_FILE
from mar_accel.data.shards import JOINED_NPZ, JOINED_TARS, read_tar
from mar_accel.errors import DataError
from mar_accel.utils.images import image_index

# Sample index of an image, or its path in a folder where names are no indices.
Key = int | str

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass
class ImageSet:
    """Images of one size, read in batches.

    Attributes:
        path: path as given by the user.
        num_images: number of images N, at least 1.
        keys: what images of two sets are paired by, N different ones.
        labels: class labels, int64 [N]. None: unknown.
        tokens: tokens [n, L, C] of the samples 0 … n−1. None: unknown.
        record: content of run.json for a run folder, else empty.
    """

    path: Path
    num_images: int
    keys: Sequence[Key]
    labels: Tensor | None = None
    tokens: Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Iterate over batches, uint8 [B, 1 or 3, H, W], in order."""
        raise NotImplementedError

    def first(self, num_images: int) -> Tensor:
        """The first n images, uint8 [n, C, H, W]."""
        return next(self.batches(min(num_images, self.num_images)))

    def at(self, keys: Sequence[Key]) -> Tensor:
        """The images with these keys, uint8 [n, C, H, W]."""
        raise NotImplementedError

    def tokens_of(self, keys: Sequence[Key]) -> list[Tensor]:
        """Tokens [L, C] of those of the samples whose tokens are known."""
        known = 0 if self.tokens is None else len(self.tokens)
        return [self.tokens[key] for key in keys if isinstance(key, int) and key < known]  # type: ignore[index]

    def require_complete(self, key: str) -> None:
        """Raise DataError if the images of a run are not those that its record counts.

        Args:
            key: key of the config that names the images, for the message.
        """
        recorded = self.record.get("num_images")
        if recorded is None or self.path.name == IMAGES:
            return
        if list(self.keys) != list(range(recorded)):
            raise DataError(
                f"{key}={self.path} has {self.num_images} images, but its run.json records the images 0 to "
                f"{recorded - 1}; run its command again with resume=true."
            )

    def content_hash(self) -> str:
        """SHA-256 over the content; for a folder, also over the file names."""
        raise NotImplementedError


class ImageFolder(ImageSet):
    """All image files of a folder, sorted by sample index, else by path.

    Args:
        path: path as given by the user.
        images: folder with the images. None: ``path``.
        only_samples: whether only names that a run gives count.
        key: config key of the path, for error messages.
        below: whether the images of its subfolders count, too.

    Raises:
        DataError: the folder does not exist or has no images. While reading: a file is damaged, or its
            size differs from the first image.

    Example:
        for batch in ImageFolder(Path("my_images")).batches(64): ...
    """

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        only_samples: bool = False,
        key: str = "path",
        below: bool = True,
    ):
        self.root = images or path
        there = self.root.rglob("*") if below else self.root.iterdir()
        files = [file for file in there if file.suffix.lower() in SUFFIXES and not file.is_dir()]
        if only_samples:
            files = [file for file in files if image_index(file.name) is not None]
        self._file_of = _by_key(self.root, files)
        self.files = list(self._file_of.values())
        if not self.files:
            named = "named 000000.png, 000001.png, …" if only_samples else f"({', '.join(SUFFIXES)})"
            raise DataError(f"{key}={path} has no images {named}; choose another folder.")
        super().__init__(path, len(self.files), list(self._file_of))

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        shape: torch.Size | None = None
        for start in range(0, self.num_images, batch_size):
            batch = self._read(self.files[start : start + batch_size], shape)
            shape = batch[0].shape
            yield batch

    def at(self, keys: Sequence[Key]) -> Tensor:
        return self._read([self._file_of[key] for key in keys])

    def _read(self, files: Sequence[Path], shape: torch.Size | None = None) -> Tensor:
        """Images of equal shape, uint8 [n, C, H, W]; ``shape`` is that of the images before."""
        pixels = [read_image(file) for file in files]
        shape = shape or pixels[0].shape
        for file, image in zip(files, pixels, strict=True):
            if image.shape != shape:
                raise DataError(
                    f"{file} must be {_size(shape)} like {self.files[0]}, got {_size(image.shape)}; "
                    "resize or remove it."
                )
        return torch.stack(pixels)

    def content_hash(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.relative_to(self.root)}\0".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()


def _by_key(root: Path, files: Sequence[Path]) -> dict[Key, Path]:
    """Files by sample index if all names are different numbers, else by path; sorted by key."""
    stems = [file.stem for file in files]
    if all(stem.isascii() and stem.isdecimal() for stem in stems) and len({*map(int, stems)}) == len(files):
        return dict(sorted((int(file.stem), file) for file in files))
    return dict(sorted((file.relative_to(root).as_posix(), file) for file in files))


def _size(shape: torch.Size) -> str:
    return f"{shape[2]}×{shape[1]} with {shape[0]} channel(s)"


class NpzImages(ImageSet):
    """Images of an .npz file in the format of ADM's evaluator.

    ``arr_0`` has the images, uint8 [N, H, W, 1 or 3] or floats in 0..1, which are converted to 8 bits.
    ``arr_1`` optionally has the labels [N].

    Raises:
        DataError: the file is damaged, or ``arr_0`` is missing or has a wrong shape or dtype. While
            reading: a pixel is NaN, infinite or out of range.
    """

    def __init__(self, path: Path):
        arrays = load_npz(path, ("arr_0", "arr_1"))
        if "arr_0" not in arrays:
            raise DataError(
                f"{path} must have the images in arr_0, got {', '.join(array_names(path)) or 'no array'}; "
                "rename it."
            )
        self.file, images = path, arrays["arr_0"]
        if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
            raise DataError(
                f"{path}: arr_0 must have the shape [N, H, W, 3] or [N, H, W, 1], got {list(images.shape)}."
            )
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise DataError(f"{path}: arr_0 must be uint8, or floats in 0 to 1, got {images.dtype}.")
        self.images = images
        super().__init__(
            path, len(images), range(len(images)), _labels(path, arrays.get("arr_1"), len(images))
        )

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, self.num_images, batch_size):
            block = torch.from_numpy(self.images[start : start + batch_size]).permute(0, 3, 1, 2)
            yield block if block.dtype == torch.uint8 else self._to_8_bit(block, start)

    def at(self, keys: Sequence[Key]) -> Tensor:
        block = torch.from_numpy(self.images[[int(key) for key in keys]]).permute(0, 3, 1, 2)
        return block if block.dtype == torch.uint8 else self._to_8_bit(block, int(keys[0]))

    def _to_8_bit(self, block: Tensor, start: int) -> Tensor:
        finite = torch.isfinite(block).flatten(1).all(dim=1)
        if not finite.all():
            first = start + int((~finite).nonzero()[0])
            raise DataError(f"{self.path}: image {first} has NaN or infinite pixels; remove or replace it.")
        if block.min() < 0 or block.max() > 1:
            raise DataError(
                f"{self.path}: floats in arr_0 must be between 0 and 1; rescale them or save them as uint8."
            )
        return (block.float() * 255).round().to(torch.uint8)

    def content_hash(self) -> str:
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(path: Path, labels: np.ndarray | None, num_images: int) -> Tensor | None:
    """Labels int64 [N] from arr_1; None without it."""
    if labels is None:
        return None
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: arr_1 must have one integer label for each of the {num_images} images, got "
            f"{labels.dtype} {list(labels.shape)}; correct or remove it."
        )
    return torch.from_numpy(labels.astype(np.int64))


class _PngRun(ImageFolder):
    """Images, labels and tokens of a run folder, written by generate or evaluate."""

    def __init__(self, path: Path, key: str):
        record = _read_record(path)
        # Only names that a run gives are its samples.
        super().__init__(path, path / IMAGES, record is not None, key)
        if record is not None:
            self.record, self.labels = record, _recorded_labels(path, record, self.keys)
        self.tokens = _read_tokens(path / TOKENS_FILE)


class _NpzRun(NpzImages):
    """The run folder of a run with ``format=npz``."""

    def __init__(self, path: Path):
        super().__init__(path / JOINED_NPZ)
        self.path, self.record = path, _read_record(path) or {}
        self.tokens = _read_tokens(path / TOKENS_FILE)


class _TarRun(ImageSet):
    """The run folder of a run with ``format=webdataset``."""

    def __init__(self, path: Path):
        self.files = sorted(filter(os.path.isfile, (path / JOINED_TARS).glob("*.tar")))
        self._file_of = {index: file for file in self.files for index, _ in read_tar(file)}
        if not self._file_of:
            raise DataError(f"{path / JOINED_TARS} has no images; run the same command again.")
        keys = sorted(self._file_of)
        record = _read_record(path)
        super().__init__(path, len(keys), keys, record=record or {})
        if record is not None:
            self.labels = _recorded_labels(path, record, keys)
        self.tokens = _read_tokens(path / TOKENS_FILE)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, self.num_images, batch_size):
            yield self.at(self.keys[start : start + batch_size])

    def at(self, keys: Sequence[Key]) -> Tensor:
        found: dict[Key, Tensor] = {}
        for file in dict.fromkeys(self._file_of[int(key)] for key in keys):
            for index, (png, _) in read_tar(file):
                if index in keys:
                    found[index] = _decoded(png, f"{file}: image {index}")
        return torch.stack([found[key] for key in keys])

    def content_hash(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        return digest.hexdigest()


def _decoded(png: bytes, where: str) -> Tensor:
    """The pixels of a PNG in memory, uint8 [1 or 3, H, W]."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            pixels = torch.from_numpy(np.array(image))
    except Exception as error:  # a decoder on damaged data may raise anything
        raise DataError(f"{where} cannot be read; run the same command again.") from error
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of a run folder; None without one."""
    # A power cut or a full disk can leave a record without content, which is no record.
    file = path / RECORD_FILE
    if not file.is_file():
        return None
    try:
        content = file.read_text(encoding="utf-8").strip()
        if content in ("", "[]", "null"):
            return None
        record = json.loads(content)
        record["config"]["dataset"]["labels"]
        return record
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_valid(file) from error


def _recorded_labels(path: Path, record: dict[str, Any], keys: Sequence[Key]) -> Tensor:
    """Labels int64 [N] of sample indices, or numbers of prompts, from the config in the record of a run."""
    try:
        dataset, indices = record["config"]["dataset"], torch.tensor(keys, dtype=torch.long)
        if prompts := dataset.get("prompts"):
            return indices // (dataset.get("num_images_per_prompt") or 1) % len(prompts)
        labels, per_class = dataset["labels"], dataset.get("images_per_class") or 1
        turns = indices // per_class
        if labels is None:
            return turns % dataset["num_classes"]
        labels = torch.tensor([labels] if isinstance(labels, int) else labels, dtype=torch.long)
        return labels[turns % len(labels)].long()
    except (ValueError, KeyError, TypeError, ArithmeticError, RuntimeError, IndexError) as error:
        raise _not_valid(path / RECORD_FILE) from error


def _not_valid(file: Path) -> DataError:
    return DataError(f"{file} is not a valid run record; remove it or run generate again.")


def _read_tokens(file: Path) -> Tensor | None:
    """Tokens [n, L, C] of the first samples of a run; None without the file."""
    from safetensors.torch import load_file

    if not file.is_file():
        return None
    try:
        tokens = load_file(file)["tokens"]
        if tokens.ndim != 3 or not tokens.is_floating_point():
            raise ValueError(f"tokens are {tokens.dtype} {list(tokens.shape)}")
    except Exception as error:  # a damaged file may raise anything
        raise DataError(
            f"{file} cannot be read as tokens of a run; remove it, and there is no latent MSE."
        ) from error
    return tokens


def open_images(path: str | Path, key: str = "evaluate.images") -> ImageSet:
    """Open a folder of images, an .npz file, or a run folder.

    Args:
        path: folder or file. A folder with a subfolder ``images`` is read as a run folder.
        key: config key of the path, for error messages.

    Raises:
        DataError: the path does not exist or has no images.
    """
    path = Path(path).expanduser()
    # Unlike pathlib, os.path takes a name that is too long for one that is not there.
    if os.path.isdir(path):
        return _open_folder(path, key)
    if os.path.isfile(path) and path.suffix == ".npz":
        return NpzImages(path)
    raise DataError(f"{key} must be a folder of images, an .npz file or a run folder, got {path}.")


def _open_folder(path: Path, key: str) -> ImageSet:
    if (path / IMAGES).is_dir():
        return _PngRun(path, key)
    if (path / JOINED_NPZ).is_file():
        return _NpzRun(path)
    return _TarRun(path) if (path / JOINED_TARS).is_dir() else ImageFolder(path, key=key)
