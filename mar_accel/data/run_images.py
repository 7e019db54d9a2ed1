"""The images of a run on disk, as PNG files or in shards: written, counted, and read back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mar_accel.data.pictures import read_image
from mar_accel.data.run_files import IMAGES
from mar_accel.utils.images import image_index, image_name, is_whole_png, save_png
from mar_accel.utils.whole_files import sync_folder


class RunImages:
    """The images of a run folder in one format.

    Files are written whole and synced before they get their names, so a kill or a power cut leaves no image
    that is there and cannot be read.

    Args:
        output_dir: the run folder; it must exist before the first image is written.
    """

    # The value of generate.format and evaluate.format.
    name: str

    def __init__(self, output_dir: Path):
        self.output_dir = output_dir

    @property
    def folder(self) -> Path:
        """Folder of the files that are written while sampling."""
        raise NotImplementedError

    def write(self, indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        """Write the images of one batch, and their names, to disk."""
        raise NotImplementedError

    def exist(self) -> bool:
        """Whether there is any image of this format, judged by names."""
        return bool(self.indices())

    def indices(self) -> list[int]:
        """Sample indices of the existing images, in order, judged by names and heads of files."""
        raise NotImplementedError

    def whole(self, shape: Sequence[int]) -> set[int]:
        """Sample indices of the images that can be read and have a shape [1 or 3, H, W]."""
        raise NotImplementedError

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """The images of each batch of sample indices, uint8 [n, 1 or 3, H, W].

        Args:
            batches: sample indices of images that are whole.
        """
        raise NotImplementedError

    def first(self, num_images: int) -> list[Image.Image]:
        """The images 0 to n − 1 of a finished run."""
        raise NotImplementedError

    def join(self, num_images: int) -> None:
        """Bring a complete run into the form that others read."""

    def tidy(self) -> None:
        """Remove what a finished run does not need."""

    def remove_leftovers(self) -> None:
        """Remove files that a killed process has begun."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def start(self, anew: bool = False) -> None:
        """Create the folder, before the first image is written.

        Args:
            anew: whether all images are made again, so that those of an earlier run are not kept.
        """
        self.folder.mkdir(exist_ok=True)
        sync_folder(self.output_dir)

    def sync(self) -> None:
        """Write the names of all images to disk."""
        if self.folder.is_dir():
            sync_folder(self.folder)


class PngImages(RunImages):
    """``images/000000.png``, one file per image."""

    name = "png"

    @property
    def folder(self) -> Path:
        return self.output_dir / IMAGES

    def write(self, indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        for index, picture in zip(indices, pictures, strict=True):
            save_png(picture, self.folder / image_name(index), sync_name=False)
        self.sync()

    def indices(self) -> list[int]:
        return image_indices(self.output_dir)

    def whole(self, shape: Sequence[int]) -> set[int]:
        indices = self.indices()
        files = [self.folder / image_name(index) for index in indices]
        # Pillow decodes without the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            whole = pool.map(lambda file: is_whole_png(file, shape), files)
            return {index for index, is_whole in zip(indices, whole, strict=True) if is_whole}

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        for batch in batches:
            yield torch.stack([read_image(self.folder / image_name(index)) for index in batch])

    def first(self, num_images: int) -> list[Image.Image]:
        return [Image.open(self.folder / image_name(index)) for index in range(num_images)]


def image_indices(output_dir: Path) -> list[int]:
    """Sample indices of the existing PNG files of a run folder, in order.

    A name counts if it is exactly the one that its index gives, so ``5.png`` is no image of a run.
    """
    folder = output_dir / IMAGES
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        found = [image_index(entry.name) for entry in entries if os.path.isfile(entry.path)]
    return sorted(index for index in found if index is not None)
