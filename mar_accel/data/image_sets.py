"""Images on disk: a folder, an .npz file in the format of ADM's evaluator, or a run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mar_accel.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass
class ImageSet:
    """Images of one size, read in batches.

    Attributes:
        path: path as given by the user.
        num_images: number of images N, at least 1.
        labels: class labels, int64 [N]. None: unknown.
        tokens: tokens [n, L, C] of the first n ≤ N images. None: unknown.
        record: content of run.json for a run folder, else empty.
    """

    path: Path
    num_images: int
    labels: Tensor | None = None
    tokens: Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Iterate over batches, uint8 [B, 1 or 3, H, W], in order."""
        raise NotImplementedError

    def first(self, num_images: int) -> Tensor:
        """The first n images, uint8 [n, C, H, W]."""
        return next(self.batches(min(num_images, self.num_images)))

    def content_hash(self) -> str:
        """SHA-256 over the content; for a folder, also over the file names."""
        raise NotImplementedError


class ImageFolder(ImageSet):
    """All image files of a folder and its subfolders, sorted by path.

    Raises:
        DataError: the folder does not exist or has no images. While reading: a file is damaged, or its
            size differs from the first image.

    Example:
        for batch in ImageFolder(Path("my_images")).batches(64): ...
    """

    def __init__(self, path: Path, images: Path | None = None):
        self.root = images or path
        self.files = sorted(file for file in self.root.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not self.files:
            raise DataError(f"{self.root} has no images; choose a folder with {', '.join(SUFFIXES)} files.")
        super().__init__(path, len(self.files))

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        shape: torch.Size | None = None
        for start in range(0, self.num_images, batch_size):
            files = self.files[start : start + batch_size]
            pixels = [read_image(file) for file in files]
            shape = shape or pixels[0].shape
            for file, image in zip(files, pixels, strict=True):
                if image.shape != shape:
                    raise DataError(
                        f"{file} must be {_size(shape)} like {self.files[0]}, got {_size(image.shape)}; "
                        "resize or remove it."
                    )
            yield torch.stack(pixels)

    def content_hash(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.relative_to(self.root)}\0".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()


def read_image(file: Path) -> Tensor:
    """Read an image as uint8 [1 or 3, H, W].

    Raises:
        DataError: the file is damaged or not an image.
    """
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "I;16")
            array = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as an image; replace or remove it.") from error
    tensor = torch.from_numpy(array.copy())
    return tensor[None] if grey else tensor.permute(2, 0, 1)


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
        arrays = load_npz(path)
        if "arr_0" not in arrays:
            raise DataError(
                f"{path} must have the images in arr_0, got {', '.join(arrays) or 'no array'}; rename it."
            )
        images = arrays["arr_0"]
        if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
            raise DataError(
                f"{path}: arr_0 must have the shape [N, H, W, 3] or [N, H, W, 1], got {list(images.shape)}."
            )
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise DataError(f"{path}: arr_0 must be uint8, or floats in 0 to 1, got {images.dtype}.")
        self.images = images
        labels = torch.from_numpy(arrays["arr_1"]).long() if "arr_1" in arrays else None
        if labels is not None and len(labels) != len(images):
            raise DataError(
                f"{path}: arr_1 must have one label for each of the {len(images)} images, got {len(labels)}."
            )
        super().__init__(path, len(images), labels)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        for start in range(0, self.num_images, batch_size):
            block = torch.from_numpy(self.images[start : start + batch_size]).permute(0, 3, 1, 2)
            yield block if block.dtype == torch.uint8 else self._to_8_bit(block, start)

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
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Load all arrays of an .npz file, never pickled objects.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise DataError(f"{path} cannot be read as an .npz of arrays; replace the file.") from error


def _run_folder(path: Path) -> ImageFolder:
    """Images, labels and tokens of a run folder, written by generate or evaluate."""
    images = ImageFolder(path, path / "images")
    record_file = path / "run.json"
    text = record_file.read_text().strip() if record_file.is_file() else ""
    # A power cut or a full disk can leave a record without content, which is no record.
    if text not in ("", "[]", "null"):
        try:
            images.record = json.loads(text)
            dataset = images.record["config"]["dataset"]
            labels = dataset["labels"]
            if labels is None:
                labels = list(range(dataset["num_classes"]))
            labels = [labels] if isinstance(labels, int) else labels
            per_class = dataset.get("images_per_class") or 1
            indices = torch.tensor([int(file.stem) for file in images.files])
            images.labels = torch.tensor(labels)[(indices // per_class) % len(labels)]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{record_file} is not a valid run record; remove it or run generate again."
            ) from error
    tokens_file = path / TOKENS_NAME
    if tokens_file.is_file():
        from safetensors.torch import load_file

        images.tokens = load_file(tokens_file)["tokens"]
    return images


# Tokens of the first images of a run, for fidelity in latent space.
TOKENS_NAME = "tokens.safetensors"


def open_images(path: str | Path, key: str = "evaluate.images") -> ImageSet:
    """Open a folder of images, an .npz file, or a run folder.

    Args:
        path: folder or file. A folder with a subfolder ``images`` is read as a run folder.
        key: config key of the path, for error messages.

    Raises:
        DataError: the path does not exist or has no images.
    """
    path = Path(path)
    if path.is_dir():
        return _run_folder(path) if (path / "images").is_dir() else ImageFolder(path)
    if path.is_file() and path.suffix == ".npz":
        return NpzImages(path)
    raise DataError(f"{key} must be a folder of images, an .npz file or a run folder, got {path}.")
