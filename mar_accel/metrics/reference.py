"""The reference for generated images: statistics and features of real images, cached by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, MinLen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar_accel.data.digits import NUM_SCANS, load_scans, random_affine, render
from mar_accel.data.image_sets import open_images
from mar_accel.data.npz import array_names, load_npz
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.features import FeatureExtractor, quantise
from mar_accel.metrics.frechet import GaussianStatistics, RunningStatistics
from mar_accel.utils.fingerprints import require_regular_file
from mar_accel.utils.host_memory import physical_memory
from mar_accel.utils.progress import progress
from mar_accel.utils.whole_files import written_whole

# KID, precision and recall use at most this many reference images, as ADM's evaluator does.
MAX_KEPT_FEATURES = 10_000
BATCH_SIZE = 256
# Memory for one augmented digit: scan, grid of coordinates, image in float32 and in uint8.
BYTES_PER_COPY = 4 * (8 * 8 + 2 * 32 * 32 + 3 * 32 * 32) + 32 * 32
# Part of the cache key. Increase it when the computation changes.
CACHE_VERSION = 2


@dataclass
class Reference:
    """Features of real images.

    Attributes:
        source: where the images come from, for reports.
        statistics: mean and covariance of their features.
        features: [M, F] with M ≤ 10,000; None if only statistics are known.
            KID, precision and recall need them.
        labels: classes of ``features``, int64 [M]; None if unknown.
    """

    source: str
    statistics: GaussianStatistics
    features: Tensor | None
    labels: Tensor | None = None


@dataclass
class RealImages:
    """Real images in batches.

    Attributes:
        batches: at most ``BATCH_SIZE`` images each, uint8 [B, 1 or 3, H, W].
        count: number of images N.
        labels: their classes, int64 [N]; None if unknown.
    """

    batches: Iterable[Tensor]
    count: int
    labels: Tensor | None = None


class ReferenceSource:
    """Source of the reference; its statistics are computed once and cached.

    Args:
        source: "digits" (scikit-learn's handwritten digits), an ADM-style .npz, a folder of images,
            or a run folder. The .npz holds mu and sigma, or images in arr_0.
        augmentations: for "digits" only. 0 uses every scan once, unchanged.
            n ≥ 1 uses n copies of each scan, augmented as in the training of the embedded model.
        cache_dir: folder of cached statistics. None: mar_accel/statistics in the user's cache folder.

    Raises:
        ConfigError: ``augmentations`` is negative.

    Example:
        >>> reference = ReferenceSource("digits").load(DigitFeatures())
    """

    def __init__(
        self,
        source: Annotated[str, MinLen(1)],
        augmentations: Annotated[int, Ge(0)] = 0,
        cache_dir: Annotated[str, MinLen(1)] | None = None,
    ):
        if augmentations < 0:
            raise ConfigError(f"reference.augmentations must be ≥ 0, got {augmentations}.")
        self.source = source
        self.augmentations = augmentations
        self.cache_dir = Path(cache_dir) if cache_dir else _user_cache_dir()

    def check(self) -> None:
        """Raise an error if the source does not exist or is too large, before any image is generated."""
        largest = physical_memory() // (NUM_SCANS * BYTES_PER_COPY)
        if self.source == "digits" and self.augmentations > largest:
            needed = self.augmentations * NUM_SCANS * BYTES_PER_COPY
            raise ConfigError(
                f"reference.augmentations={self.augmentations} needs {needed / 1e9:.0f} GB of memory; this "
                f"machine has enough for {largest}."
            )
        if self.source != "digits" and not os.path.exists(Path(self.source).expanduser()):
            raise DataError(
                f"reference.source={self.source} does not exist; use digits, an .npz with mu and sigma "
                "(ADM's VIRTUAL_imagenet256_labeled.npz or adm_in256_stats.npz), or a folder of images."
            )

    def load(self, extractor: FeatureExtractor, device: torch.device | str = "cpu") -> Reference:
        """Statistics and features of the source, computed with ``extractor``.

        Raises:
            DataError: the source cannot be read, or its statistics belong to other features.
        """
        self.check()
        if self.source == "digits":
            name = (
                f"digits, {self.augmentations} augmented copies"
                if self.augmentations
                else "digits, original scans"
            )
            return self._cached(name, f"digits-{self.augmentations}", extractor, device, self._digits)
        path = Path(self.source).expanduser()
        if path.suffix == ".npz" and path.is_file():
            arrays = load_npz(path, ("mu", "sigma"))
            if "mu" in arrays or "sigma" in arrays:
                return self._from_statistics(path, arrays, extractor, device)
        content = open_images(path, "reference.source").content_hash()
        return self._cached(str(path), content, extractor, device, self._stored)

    def _from_statistics(
        self,
        path: Path,
        arrays: dict[str, np.ndarray],
        extractor: FeatureExtractor,
        device: torch.device | str,
    ) -> Reference:
        """Read an ADM file: mu [F], sigma [F, F] and optionally images for precision and recall."""
        mu, sigma = arrays.get("mu"), arrays.get("sigma")
        if mu is None or sigma is None or mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise DataError(f"{path} must hold mu [F] and sigma [F, F]; use an ADM-style .npz.")
        if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
            raise DataError(
                f"{path} must hold numbers in mu and sigma, got {mu.dtype}, {sigma.dtype}; replace it."
            )
        if len(mu) != extractor.dim:
            raise DataError(
                f"{path} holds statistics of {len(mu)} features but features={extractor.name} has "
                f"{extractor.dim}; choose the features that the statistics were computed with."
            )
        mean, covariance = (torch.from_numpy(array.astype(np.float64)) for array in (mu, sigma))
        statistics = GaussianStatistics(mean, covariance)
        if not (torch.isfinite(statistics.mean).all() and torch.isfinite(statistics.covariance).all()):
            raise DataError(f"{path} holds NaN or infinite statistics; replace the file.")
        if not _may_be_covariance(covariance):
            raise DataError(f"{path} holds a sigma that is no covariance; replace the file.")
        features = None
        if "arr_0" in array_names(path):
            content = open_images(path, "reference.source").content_hash()
            features = self._cached(str(path), content, extractor, device, self._stored).features
        return Reference(str(path), statistics, features)

    def _digits(self) -> RealImages:
        images, labels = digit_images(self.augmentations)
        return RealImages(images.split(BATCH_SIZE), len(images), labels)

    def _stored(self) -> RealImages:
        images = open_images(self.source, "reference.source")
        if images.num_images < 2:
            raise DataError(f"reference.source={self.source} has a single image; statistics need at least 2.")
        return RealImages(images.batches(BATCH_SIZE), images.num_images)

    def _cached(
        self,
        name: str,
        content: str,
        extractor: FeatureExtractor,
        device: torch.device | str,
        open_real: Callable[[], RealImages],
    ) -> Reference:
        key = f"{CACHE_VERSION}:{content}:{extractor.name}:{extractor.fingerprint}"
        file = self.cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        reference = _read_cache(file, name, extractor.dim)
        if reference is None:
            reference = _compute(name, open_real(), extractor, device)
            _write_cache(file, reference)
        return reference


def _may_be_covariance(matrix: Tensor) -> bool:
    """Whether a matrix is symmetric, with no entry larger than the variances of its row and column allow."""
    variances = matrix.diagonal()
    if not torch.allclose(matrix, matrix.T, rtol=1e-4) or (variances < 0).any():
        return False
    # Files in float32 or from few images are off by rounding.
    limit = torch.outer(variances.sqrt(), variances.sqrt())
    return bool((matrix.abs() <= 1.001 * limit + 1e-6 * variances.max()).all())


def _compute(
    name: str, images: RealImages, extractor: FeatureExtractor, device: torch.device | str
) -> Reference:
    extractor = extractor.to(device)
    running, kept, labels = RunningStatistics(extractor.dim), [], images.labels
    for batch in progress(images.batches, "features of the reference", -(-images.count // BATCH_SIZE)):
        pooled = extractor(batch.to(device)).pooled.cpu()
        running.update(pooled)
        kept.append(pooled)
    features = torch.cat(kept)
    if len(features) > MAX_KEPT_FEATURES:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(features), generator=generator)[:MAX_KEPT_FEATURES]
        features = features[chosen]
        labels = labels[chosen] if labels is not None else None
    return Reference(name, running.finish(), features, labels)


def digit_images(augmentations: int) -> tuple[Tensor, Tensor]:
    """Handwritten digits rendered as for the embedded model: uint8 [N, 1, 32, 32], and labels [N]."""
    scans, labels = load_scans()
    if not augmentations:
        return quantise(render(scans)), labels
    copies = scans.repeat(augmentations, 1, 1, 1)
    affine = random_affine(len(copies), torch.Generator().manual_seed(0))
    return quantise(render(copies, affine)), labels.repeat(augmentations)


def _user_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mar_accel" / "statistics"


def _read_cache(file: Path, name: str, dim: int) -> Reference | None:
    """The statistics of an earlier computation; None if there are none, or if the file is damaged."""
    try:
        require_regular_file(file)
        tensors = load_file(file)
        if not _is_whole(tensors, dim):
            return None
        statistics = GaussianStatistics(tensors["mean"], tensors["covariance"], int(tensors["count"]))
        return Reference(name, statistics, tensors["features"], tensors.get("labels"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _is_whole(tensors: Mapping[str, Tensor], dim: int) -> bool:
    """Whether the tensors of a cache have the form in which they are written, and finite numbers."""
    features, labels = tensors["features"], tensors.get("labels")
    shapes = {"mean": (dim,), "covariance": (dim, dim), "count": (), "features": (len(features), dim)}
    if any(tuple(tensors[key].shape) != shape for key, shape in shapes.items()):
        return False
    if tensors["count"].dtype != torch.long or tensors["count"] < max(1, len(features)) or not len(features):
        return False
    if labels is not None and (labels.dtype != torch.long or labels.shape != (len(features),)):
        return False
    if {tensors[key].dtype for key in ("mean", "covariance")} != {torch.float64}:
        return False
    numbers = [tensors[key] for key in ("mean", "covariance", "features")]
    return all(bool(own.is_floating_point() and torch.isfinite(own).all()) for own in numbers)


def _write_cache(file: Path, reference: Reference) -> None:
    """Write the statistics if possible; otherwise they are computed again next time."""
    assert reference.features is not None
    tensors = {
        "mean": reference.statistics.mean,
        "covariance": reference.statistics.covariance.contiguous(),
        "count": torch.tensor(reference.statistics.count, dtype=torch.long),
        "features": reference.features.contiguous(),
    }
    if reference.labels is not None:
        tensors["labels"] = reference.labels.contiguous()
    # safetensors has an error of its own for a full disk.
    with suppress(OSError, SafetensorError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as temporary:
            save_file(tensors, temporary)
