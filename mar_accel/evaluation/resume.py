"""Going on with a run that was cut off: what is there need not be sampled again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mar_accel.config.settings import EvaluateSettings
from mar_accel.data.image_sets import read_image
from mar_accel.data.requests import GenerationRequests
from mar_accel.evaluation.collect import Kept
from mar_accel.evaluation.token_files import read_tokens
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.quality import FeatureSet
from mar_accel.runs.folder import IMAGES, image_indices
from mar_accel.utils.images import image_name
from mar_accel.utils.progress import progress
from mar_accel.utils.ranks import is_first_process


@dataclass
class Earlier:
    """What an earlier run of the same config has left.

    Attributes:
        missing: requests that are still to be sampled.
        features: of the other images.
        kept: pixels, tokens and label of those among the first images that are there, by sample index.
        finished: sample indices and labels of all images that are there; on the first process alone.
    """

    missing: GenerationRequests
    features: list[FeatureSet]
    kept: dict[int, Kept]
    finished: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))


def nothing_earlier(requests: GenerationRequests) -> Earlier:
    """Where everything is to be sampled."""
    return Earlier(requests, [], {})


def read_earlier(
    requests: GenerationRequests,
    output_dir: Path,
    there: set[int],
    extractor: FeatureExtractor | None,
    first: int,
    num_processes: int,
) -> Earlier:
    """What of the requests need not be sampled again.

    Args:
        there: sample indices of the images that may be kept.
        first: of so many samples at the beginning, tokens are needed besides the image.
        num_processes: how many processes will sample what is missing.
    """
    tokens = read_tokens(output_dir)
    there = {index for index in there if index >= first or index in tokens}
    missing = requests.without(there, num_processes)
    again = {missing.requests[item][0] for item in range(missing.num_images)}
    finished = requests.only([index for index in range(requests.num_images) if index not in again])
    # The first process puts everything together; the others need not look at what is there.
    features: list[FeatureSet] = []
    if extractor is not None and is_first_process():
        features = _features(finished, output_dir, extractor)
    pairs = [finished.requests[item] for item in range(finished.num_images)] if is_first_process() else []
    indices, labels = [index for index, _ in pairs], [label for _, label in pairs]
    return Earlier(missing, features, _kept(finished, output_dir, tokens, first), (indices, labels))


def keeps_images(settings: EvaluateSettings, output_dir: Path) -> bool:
    """Whether a run keeps images that are in ``output_dir``; ask before it samples."""
    return settings.resume and bool(image_indices(output_dir))


def _kept(
    requests: GenerationRequests, output_dir: Path, tokens: dict[int, Tensor], first: int
) -> dict[int, Kept]:
    pairs = (requests.requests[item] for item in range(requests.num_images))
    return {
        index: Kept(read_image(output_dir / IMAGES / image_name(index)), tokens[index], label)
        for index, label in pairs
        if index < first
    }


def _features(
    requests: GenerationRequests, output_dir: Path, extractor: FeatureExtractor
) -> list[FeatureSet]:
    """Features of finished images, which hold the very pixels that features are computed from.

    Batch by batch as when they are sampled, so that they are the same to the last bit.
    """
    pairs, size = [requests.requests[item] for item in range(requests.num_images)], requests.batch_size
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    parts = []
    for batch in progress(batches, "features of earlier images"):
        pixels = [read_image(output_dir / IMAGES / image_name(index)) for index, _ in batch]
        indices, labels = torch.tensor(batch).T
        parts.append(FeatureSet.of(extractor(torch.stack(pixels).to(extractor.device)), indices, labels))
    return parts
