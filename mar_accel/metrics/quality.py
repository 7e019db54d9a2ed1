"""Quality of a set of images: all metrics that are computed on their features, in one object."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mar_accel.errors import DataError
from mar_accel.metrics.catalogue import keys_of
from mar_accel.metrics.cmmd import cmmd
from mar_accel.metrics.features import FeatureExtractor, Features
from mar_accel.metrics.frechet import frechet_distance, gaussian_statistics
from mar_accel.metrics.inception_score import inception_score
from mar_accel.metrics.kid import kernel_distance
from mar_accel.metrics.precision_recall import precision_recall
from mar_accel.metrics.recognised import recognised
from mar_accel.metrics.reference import Reference
from mar_accel.metrics.small_samples import bias_of_gaussian_draws, fid_bias, fid_standard_error

# The bias is estimated by drawing as many vectors as there are images. Above this many numbers it is
# skipped, unless there are so few images that a warning needs it.
MAX_BIAS_NUMBERS = 20_000_000
NEIGHBOURS = 3


@dataclass
class FeatureSet:
    """Features of images with their sample indices; parts of several batches or devices can be joined.

    Attributes:
        indices: sample indices [N].
        labels: class labels [N], −1 if unknown.
        pooled: [N, F].
        logits: [N, classes].
    """

    indices: Tensor
    labels: Tensor
    pooled: Tensor
    logits: Tensor

    @staticmethod
    def of(features: Features, indices: Tensor, labels: Tensor | None) -> FeatureSet:
        """The features of one batch, moved to the CPU."""
        known = labels if labels is not None else torch.full_like(indices, -1)
        return FeatureSet(indices.cpu(), known.cpu(), features.pooled.cpu(), features.logits.cpu())

    @staticmethod
    def join(parts: list[FeatureSet]) -> FeatureSet:
        """All parts, sorted by sample index.

        The result does not depend on the split into batches and devices.
        """
        indices = torch.cat([part.indices for part in parts])
        order = indices.argsort()
        return FeatureSet(
            indices[order],
            torch.cat([part.labels for part in parts])[order],
            torch.cat([part.pooled for part in parts])[order],
            torch.cat([part.logits for part in parts])[order],
        )


@dataclass
class Quality:
    """Metrics of a set of images.

    Attributes:
        numbers: value of each metric by name; None if it cannot be computed.
        warnings: sentences that a reader of the numbers must know.
    """

    numbers: dict[str, float | None]
    warnings: list[str] = field(default_factory=list)


def measure_quality(images: FeatureSet, extractor: FeatureExtractor, reference: Reference | None) -> Quality:
    """FID, KID, Inception Score, precision, recall and the share of recognised images.

    Args:
        images: features of the generated images, at least two.
        extractor: the network that computed them.
        reference: real images to compare with. None: only the Inception Score and recognition are computed.

    Raises:
        DataError: there are fewer than two images, features are NaN or infinite,
            or the reference has another number of features.
    """
    count = len(images.pooled)
    if count < 2:
        raise DataError(f"metrics need at least 2 images, got {count}; increase dataset.num_images.")
    if not torch.isfinite(images.pooled).all():
        raise DataError("the features have NaN or infinite values; check for damaged images or weights.")
    quality = Quality({**dict.fromkeys(keys_of("quality")), "num_images": count})
    if images.logits.shape[1]:
        mean, deviation = inception_score(images.logits)
        quality.numbers |= {"inception_score": mean, "inception_score_std": deviation}
    share, error = _recognised(images, extractor)
    quality.numbers |= {"recognised": share, "recognised_std_error": error}
    if reference is not None:
        _compare_statistics(quality, images, reference)
        _compare_features(quality, images, reference)
        if extractor.for_cmmd and reference.features is not None:
            quality.numbers["cmmd"] = cmmd(images.pooled, reference.features)
    return quality


def _recognised(images: FeatureSet, extractor: FeatureExtractor) -> tuple[float | None, float | None]:
    if not extractor.recognises or (images.labels < 0).any():
        return None, None
    return recognised(images.logits, images.labels)


def _compare_statistics(quality: Quality, images: FeatureSet, reference: Reference) -> None:
    """FID, its standard error and its bias."""
    count, dim = images.pooled.shape
    quality.numbers["fid"] = frechet_distance(gaussian_statistics(images.pooled), reference.statistics)
    quality.numbers["fid_std_error"] = fid_standard_error(images.pooled, reference.statistics, images.labels)
    if count <= dim or count * dim <= MAX_BIAS_NUMBERS:
        bias = fid_bias(reference, images.labels)
        quality.numbers["fid_bias"] = bias.value
        if count <= dim:
            quality.warnings.append(
                f"FID of {count} images on {dim} features is biased: {count} {bias.drawn} would get about "
                f"{bias.value:.3g}; generate more than {dim} images."
            )
    real = reference.statistics.count
    if real is not None and real <= dim:
        # Gaussian draws are used even if the classes are known. It is unknown whether the class counts of
        # the reference were drawn or fixed.
        real_bias = bias_of_gaussian_draws(reference.statistics, real)
        quality.warnings.append(
            f"FID against {real} reference images on {dim} features is biased: {real} independent draws "
            f"from the reference's Gaussian differ from it by about {real_bias:.3g}; use more than {dim} "
            "reference images."
        )


def _compare_features(quality: Quality, images: FeatureSet, reference: Reference) -> None:
    """KID, precision and recall, if the reference's features are known."""
    if reference.features is None:
        quality.warnings.append(
            f"{reference.source} holds only statistics: KID, precision and recall need reference images."
        )
        return
    if min(len(images.pooled), len(reference.features)) <= NEIGHBOURS:
        quality.warnings.append(
            f"KID, precision and recall are missing: they need more than {NEIGHBOURS} images in each set."
        )
        return
    kid, kid_std = kernel_distance(images.pooled, reference.features)
    precision, recall = precision_recall(images.pooled, reference.features, NEIGHBOURS)
    quality.numbers |= {"kid": kid, "kid_std": kid_std, "precision": precision, "recall": recall}
