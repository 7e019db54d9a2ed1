"""Resume an interrupted run: existing images are not sampled again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mar_accel.data.requests import GenerationRequests
from mar_accel.data.run_images import RunImages
from mar_accel.evaluation.collector import Kept
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.token_files import read_tokens
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.quality import FeatureSet
from mar_accel.utils.progress import progress


@dataclass
class Earlier:
    """Results of an earlier run of the same config.

    Attributes:
        missing: requests that must still be sampled.
        features: features of the existing images.
        kept: pixels, tokens and label of the existing first images, by sample index.
    """

    missing: GenerationRequests
    features: list[FeatureSet] = field(default_factory=list)
    kept: dict[int, Kept] = field(default_factory=dict)


def nothing_earlier(requests: GenerationRequests) -> Earlier:
    """No earlier results: all requests are sampled."""
    return Earlier(requests.only(requests.requests.indices))


def read_earlier(
    requests: GenerationRequests,
    images: RunImages,
    there: set[int],
    extractor: FeatureExtractor | None,
    own_metrics: OwnMetrics,
    first: int,
    num_processes: int,
) -> Earlier:
    """Read the results that need not be sampled again.

    Files hold exactly the pixels that features are computed from. The batches are those of sampling, so the
    features are bit-identical.

    Args:
        requests: all requests of the run.
        images: the images of the run folder.
        there: sample indices of the existing images.
        extractor: computes the features. None: no features.
        own_metrics: metrics that see the existing images, too.
        first: samples with an index below this number also need their tokens.
        num_processes: number of processes that will sample the missing images.
    """
    tokens = read_tokens(images.output_dir)
    there = {index for index in there if index >= first or index in tokens}
    earlier = Earlier(requests.without(there, num_processes))
    asked, again = requests.requests.indices, earlier.missing.requests.indices
    judged = extractor is not None or own_metrics.metrics
    finished = [i for i in sorted(there) if i in asked and i not in again and (judged or i < first)]
    batches = _batches(requests.only(finished))
    pixels_of = images.read([[index for index, _ in batch] for batch in batches])
    for batch in progress(batches, "earlier images"):
        pixels = next(pixels_of)
        indices, labels = torch.tensor(batch, dtype=torch.long).T
        if extractor is not None:
            features = extractor(pixels.to(extractor.device))
            earlier.features.append(FeatureSet.of(features, indices, labels))
        own_metrics.update(pixels, labels)
        for image, (index, label) in zip(pixels, batch, strict=True):
            if index < first:
                earlier.kept[index] = Kept(image.clone(), tokens[index], label)
    return earlier


def _batches(requests: GenerationRequests) -> list[list[tuple[int, int]]]:
    """Sample index and label of the requests, in batches."""
    pairs, size = [requests.requests[item] for item in range(requests.num_images)], requests.batch_size
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]
