"""Images of a run in shards: one file per batch while sampling, joined at the end."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mar_accel.data.npz import map_array, read_header
from mar_accel.data.run_images import PngImages, RunImages
from mar_accel.errors import DataError
from mar_accel.utils.images import image_index, image_name, is_whole_png
from mar_accel.utils.whole_files import sync_folder, written_whole

SHARDS = "shards"
JOINED_NPZ, JOINED_TARS = "images.npz", "webdataset"
# Bytes of pixels that are held in memory while shards are joined.
_BLOCK_BYTES = 1 << 26
TAR_IMAGES = 1000


class Shards(RunImages):
    """One file per batch. Its name holds a hash of its sample indices.

    Batches of another batch size or number of devices overlap, so one may not replace another. The images in
    both are equal.
    """

    suffix: str

    @property
    def folder(self) -> Path:
        return self.output_dir / SHARDS

    @property
    def parts(self) -> list[Path]:
        """The shards, oldest first."""
        # A pipe of such a name would never end.
        files = filter(os.path.isfile, self.folder.glob(f"[0-9]*{self.suffix}"))
        return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name))

    @property
    def joined(self) -> list[Path]:
        """Files of an earlier finished run, in order."""
        raise NotImplementedError

    def write_shard(
        self, file: IO[bytes], indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]
    ) -> None:
        """Write one shard into an open file."""
        raise NotImplementedError

    def indices_in(self, file: Path) -> list[int]:
        """Sample indices in a shard or joined file; empty if it cannot be read."""
        raise NotImplementedError

    def is_whole(self, file: Path, shape: Sequence[int]) -> bool:
        """Whether everything in a file can be read, and all images have a shape [1 or 3, H, W]."""
        raise NotImplementedError

    def images_in(self, file: Path) -> Mapping[int, np.ndarray]:
        """The images uint8 [H, W, 1 or 3] of a whole shard or joined file, by sample index."""
        raise NotImplementedError

    def exist(self) -> bool:
        return bool(self.joined or self.parts)

    def write(self, indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]) -> None:
        digest = hashlib.sha256(repr(list(indices)).encode()).hexdigest()[:8]
        name = f"{indices[0]:06d}-{digest}{self.suffix}"
        with written_whole(self.folder / name) as temporary, temporary.open("wb") as file:
            self.write_shard(file, indices, labels, pictures)

    def indices(self) -> list[int]:
        found = {index for file in (*self.joined, *self.parts) for index in self.indices_in(file)}
        return sorted(found)

    def whole(self, shape: Sequence[int]) -> set[int]:
        found: set[int] = set()
        for file in (*self.joined, *self.parts):
            if self.is_whole(file, shape):
                found.update(self.indices_in(file))
            else:
                # It would be read again when the shards are joined.
                file.unlink()
        return found

    def start(self, anew: bool = False) -> None:
        super().start(anew)
        for file in self.joined if anew else ():
            file.unlink(missing_ok=True)
        if os.path.isdir(self.output_dir / JOINED_NPZ) or os.path.isfile(self.output_dir / JOINED_TARS):
            raise DataError(
                f"{self.output_dir} has a folder {JOINED_NPZ} or a file {JOINED_TARS}, where the images are "
                "to be written; remove it."
            )

    def tidy(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_leftovers(self) -> None:
        super().remove_leftovers()
        for leftover in (*self.output_dir.glob(".*.tmp"), *self.output_dir.glob(f"{JOINED_TARS}/.*.tmp")):
            leftover.unlink(missing_ok=True)

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        sources = self.sources([*self.joined, *self.parts])
        # Batches follow each other in the files, so one file at a time is enough.
        opened, there = Path(), dict[int, np.ndarray]()
        for batch in batches:
            found: dict[int, np.ndarray] = {}
            for file in dict.fromkeys(sources[index] for index in batch):
                if file != opened:
                    opened, there = file, dict(self.images_in(file))
                found |= {index: there[index] for index in batch if sources[index] == file}
            pixels = np.stack([found[index] for index in batch])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def sources(self, files: Sequence[Path]) -> dict[int, Path]:
        """For each sample index, the last file that has it."""
        return {index: file for file in files for index in self.indices_in(file)}


class NpzShards(Shards):
    """``images.npz`` as ADM's evaluator reads it: ``arr_0`` uint8 [N, H, W, 1 or 3], ``arr_1`` labels [N]."""

    name, suffix = "npz", ".npz"

    @property
    def joined(self) -> list[Path]:
        return [file for file in [self.output_dir / JOINED_NPZ] if file.is_file()]

    def write_shard(
        self, file: IO[bytes], indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]
    ) -> None:
        pixels = np.stack([_pixels(picture) for picture in pictures])
        np.savez(
            file, arr_0=pixels, arr_1=np.asarray(labels, np.int64), indices=np.asarray(indices, np.int64)
        )

    def indices_in(self, file: Path) -> list[int]:
        try:
            if file.name == JOINED_NPZ:
                with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as member:
                    return list(range(read_header(member)[0][0]))
            with np.load(file) as arrays:
                return [int(index) for index in arrays["indices"]]
        except Exception:  # a damaged archive may raise anything
            return []

    def images_in(self, file: Path) -> Mapping[int, np.ndarray]:
        # Values of the joined file, which may be large, are read where they are used.
        if file.name == JOINED_NPZ:
            return dict(enumerate(map_array(file, "arr_0")))
        with np.load(file) as arrays:
            return dict(zip(arrays["indices"].tolist(), arrays["arr_0"], strict=True))

    def is_whole(self, file: Path, shape: Sequence[int]) -> bool:
        channels, height, width = shape
        try:
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    return False
                with archive.open("arr_0.npy") as member:
                    there = read_header(member)
                with archive.open("arr_1.npy") as member:
                    labels = read_header(member)
        except Exception:  # as above
            return False
        count = len(self.indices_in(file))
        pixels = ((count, height, width, channels), False, np.dtype(np.uint8))
        return there == pixels and labels == ((count,), False, np.dtype(np.int64)) and count > 0

    def join(self, num_images: int) -> None:
        earlier = len(self.indices_in(self.joined[0])) if self.joined else 0
        if earlier == num_images:
            return
        sources = self.sources(self.parts)
        shape = np.load(next(iter(sources.values())))["arr_0"].shape[1:]
        target, labels = self.output_dir / JOINED_NPZ, np.empty(num_images, np.int64)
        with written_whole(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as out:
                header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *shape)}
                np.lib.format.write_array_header_1_0(out, header)
                if earlier:
                    self._copy_earlier(target, out, labels)
                for start, pixels, part in _blocks(sources, earlier, num_images, shape):
                    out.write(pixels.tobytes())
                    labels[start : start + len(part)] = part
            with archive.open("arr_1.npy", "w") as out:
                np.lib.format.write_array(out, labels)

    @staticmethod
    def _copy_earlier(file: Path, out: IO[bytes], labels: np.ndarray) -> None:
        """Copy the images of an earlier, shorter run to the front."""
        with zipfile.ZipFile(file) as archive:
            with archive.open("arr_0.npy") as member:
                read_header(member)
                shutil.copyfileobj(member, out, _BLOCK_BYTES)
            with archive.open("arr_1.npy") as member:
                earlier = np.lib.format.read_array(member)
        labels[: len(earlier)] = earlier

    def first(self, num_images: int) -> list[Image.Image]:
        with zipfile.ZipFile(self.output_dir / JOINED_NPZ) as archive, archive.open("arr_0.npy") as member:
            shape = (num_images, *read_header(member)[0][1:])
            pixels = np.frombuffer(member.read(math.prod(shape)), np.uint8).reshape(shape)
        return [Image.fromarray(image[:, :, 0] if shape[3] == 1 else image) for image in pixels]


def _blocks(
    sources: dict[int, Path], start: int, stop: int, shape: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The images ``start`` to ``stop`` in blocks: first index, pixels uint8 [n, H, W, C] and labels [n]."""
    size = max(1, _BLOCK_BYTES // math.prod(shape))
    for first in range(start, stop, size):
        indices = range(first, min(first + size, stop))
        pixels, labels = np.empty((len(indices), *shape), np.uint8), np.empty(len(indices), np.int64)
        for file in dict.fromkeys(sources[index] for index in indices):
            try:
                with np.load(file) as arrays:
                    rows, images, classes = arrays["indices"], arrays["arr_0"], arrays["arr_1"]
            except Exception as error:  # as above
                raise DataError(
                    f"{file} is damaged, although it was written whole; run the same command again with "
                    "resume=true."
                ) from error
            here = (rows >= first) & (rows < first + len(indices))
            pixels[rows[here] - first], labels[rows[here] - first] = images[here], classes[here]
        yield first, pixels, labels


def _pixels(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 1 or 3]."""
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


class TarShards(Shards):
    """``webdataset/000000.tar``, …: 1,000 samples each, with ``000000.png`` and its label ``000000.cls``."""

    name, suffix = "webdataset", ".tar"

    @property
    def joined(self) -> list[Path]:
        return sorted(filter(os.path.isfile, self.output_dir.glob(f"{JOINED_TARS}/[0-9]*.tar")))

    def write_shard(
        self, file: IO[bytes], indices: Sequence[int], labels: Sequence[int], pictures: Sequence[Image.Image]
    ) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for index, label, picture in zip(indices, labels, pictures, strict=True):
                content = io.BytesIO()
                picture.save(content, format="PNG")
                _add(archive, index, content.getvalue(), str(label).encode())

    def indices_in(self, file: Path) -> list[int]:
        try:
            with tarfile.open(file) as archive:
                found = [image_index(member.name) for member in archive]
        except (OSError, tarfile.TarError):
            return []
        return [index for index in found if index is not None]

    def images_in(self, file: Path) -> Mapping[int, np.ndarray]:
        return {
            index: _pixels(Image.open(io.BytesIO(png), formats=["PNG"])) for index, (png, _) in read_tar(file)
        }

    def is_whole(self, file: Path, shape: Sequence[int]) -> bool:
        try:
            samples = dict(read_tar(file))
        except (OSError, DataError):
            return False
        return bool(samples) and all(is_whole_png(io.BytesIO(png), shape) for png, _ in samples.values())

    def join(self, num_images: int) -> None:
        folder = self.output_dir / JOINED_TARS
        sources = self.sources([*self.joined, *self.parts])
        folder.mkdir(exist_ok=True)
        sync_folder(self.output_dir)
        for number, start in enumerate(range(0, num_images, TAR_IMAGES)):
            indices = list(range(start, min(start + TAR_IMAGES, num_images)))
            target = folder / f"{number:06d}.tar"
            if self.indices_in(target) == indices:
                continue
            samples: dict[int, tuple[bytes, bytes]] = {}
            for file in dict.fromkeys(sources[index] for index in indices):
                samples.update((index, sample) for index, sample in read_tar(file) if index in set(indices))
            with written_whole(target) as temporary, tarfile.open(temporary, mode="w") as archive:
                for index in indices:
                    _add(archive, index, *samples[index])

    def first(self, num_images: int) -> list[Image.Image]:
        pngs = (png for file in self.joined for _, (png, _) in read_tar(file))
        return [Image.open(io.BytesIO(png)) for png in itertools.islice(pngs, num_images)]


def _add(archive: tarfile.TarFile, index: int, png: bytes, label: bytes) -> None:
    """Add a sample. Times and owners are left out, so equal samples give equal files."""
    name = image_name(index)
    for member, content in ((name, png), (name.replace(".png", ".cls"), label)):
        head = tarfile.TarInfo(member)
        head.size = len(content)
        archive.addfile(head, io.BytesIO(content))


def read_tar(file: Path) -> list[tuple[int, tuple[bytes, bytes]]]:
    """Sample index, PNG and label of all samples in a tar file; raises DataError if it is damaged."""
    contents: dict[str, Any] = {}
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                part = archive.extractfile(member)
                contents[member.name] = part.read() if part is not None else b""
        found = [(name, image_index(name)) for name in contents]
        return [
            (index, (contents[name], contents[name.replace(".png", ".cls")]))
            for name, index in found
            if index is not None
        ]
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DataError(f"{file} cannot be read as a tar of images; remove it.") from error


FORMATS: dict[str, type[RunImages]] = {kind.name: kind for kind in (PngImages, NpzShards, TarShards)}


def formats_in(output_dir: Path) -> list[str]:
    """Formats in which a run folder has images."""
    return [name for name, kind in FORMATS.items() if kind(output_dir).exist()]
