"""Resume an interrupted run: existing images are not sampled again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mar_accel.config.settings import EvaluateSettings
from mar_accel.data.pictures import read_image
from mar_accel.data.requests import GenerationRequests
from mar_accel.evaluation.collect import Kept
from mar_accel.evaluation.token_files import read_tokens
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.quality import FeatureSet
from mar_accel.runs.folder import IMAGES, image_indices
from mar_accel.utils.images import image_name
from mar_accel.utils.progress import progress


@dataclass
class Earlier:
    """Results of an earlier run of the same config.

    Attributes:
        missing: requests that must still be sampled.
        features: features of the existing images.
        kept: pixels, tokens and label of the existing first images, by sample index.
        finished: sample indices and labels of all existing images.
    """

    missing: GenerationRequests
    features: list[FeatureSet]
    kept: dict[int, Kept]
    finished: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))


def nothing_earlier(requests: GenerationRequests) -> Earlier:
    """No earlier results: all requests are sampled."""
    return Earlier(requests.only(requests.requests.indices), [], {})


def read_earlier(
    requests: GenerationRequests,
    output_dir: Path,
    there: set[int],
    extractor: FeatureExtractor | None,
    first: int,
    num_processes: int,
) -> Earlier:
    """Read the results that need not be sampled again.

    Args:
        requests: all requests of the run.
        output_dir: the run folder.
        there: sample indices of the existing images.
        extractor: computes the features. None: no features.
        first: samples with an index below this number also need their tokens.
        num_processes: number of processes that will sample the missing images.
    """
    tokens = read_tokens(output_dir)
    there = {index for index in there if index >= first or index in tokens}
    missing = requests.without(there, num_processes)
    asked, again = requests.requests.indices, missing.requests.indices
    finished = requests.only([index for index in sorted(there) if index in asked and index not in again])
    features = [] if extractor is None else _features(finished, output_dir, extractor)
    pairs = [finished.requests[item] for item in range(finished.num_images)]
    indices, labels = [index for index, _ in pairs], [label for _, label in pairs]
    return Earlier(missing, features, _kept(finished, output_dir, tokens, first), (indices, labels))


def keeps_images(settings: EvaluateSettings, output_dir: Path) -> bool:
    """Whether a run will keep existing images in ``output_dir``; call this before sampling."""
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
    """Features of existing images.

    The files hold exactly the pixels that features are computed from.
    The batches are those of sampling, so the features are bit-identical.
    """
    pairs, size = [requests.requests[item] for item in range(requests.num_images)], requests.batch_size
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    parts = []
    for batch in progress(batches, "features of earlier images"):
        pixels = [read_image(output_dir / IMAGES / image_name(index)) for index, _ in batch]
        indices, labels = torch.tensor(batch, dtype=torch.long).T
        parts.append(FeatureSet.of(extractor(torch.stack(pixels).to(extractor.device)), indices, labels))
    return parts
