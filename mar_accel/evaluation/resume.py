"""Going on with a run that was cut off: its images need not be sampled again."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from mar_accel.data.image_sets import TOKENS_NAME, read_image
from mar_accel.data.requests import GenerationRequests
from mar_accel.evaluation.collect import Collected
from mar_accel.evaluation.files import num_tokens
from mar_accel.evaluation.result import SHOWN_IMAGES
from mar_accel.evaluation.settings import EvaluationSettings
from mar_accel.images import image_name
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.progress import progress
from mar_accel.metrics.quality import FeatureSet
from mar_accel.run_folder import IMAGES, image_indices

READ_BATCH_SIZE = 256


def split_requests(
    requests: GenerationRequests, output_dir: Path, first: int
) -> tuple[GenerationRequests, GenerationRequests]:
    """Requests that are to be sampled, and those whose images lie in ``output_dir`` already.

    Args:
        first: so many samples at the beginning are sampled in any case: their tokens are needed, and are
            written only at the end.
    """
    there = set(image_indices(output_dir))
    indices = range(requests.num_images)
    finished = [index for index in indices if index >= first and index in there]
    missing = [index for index in indices if index < first or index not in there]
    return requests.only(missing), requests.only(finished)


def is_complete(requests: GenerationRequests, output_dir: Path, first: int) -> bool:
    """Whether ``output_dir`` holds every image, and the tokens of the first ones."""
    there = set(image_indices(output_dir))
    return num_tokens(output_dir) >= first and all(index in there for index in range(requests.num_images))


def collected_from_files(
    requests: GenerationRequests, output_dir: Path, extractor: FeatureExtractor, first: int
) -> Collected:
    """What sampling every image again would collect, from the files of a complete run."""
    features = FeatureSet.join(features_of_files(requests, output_dir, extractor))
    images = [read_image(output_dir / IMAGES / image_name(index)) for index in range(first)]
    tokens = load_file(output_dir / TOKENS_NAME)["tokens"][:first]
    return Collected(features, torch.stack(images), tokens, features.labels[:first])


def keeps_images(settings: EvaluationSettings, output_dir: Path) -> bool:
    """Whether a run would leave images that are in ``output_dir`` as they are; ask before it samples."""
    first = max(settings.fidelity_images, SHOWN_IMAGES)
    late_ones = any(index >= first for index in image_indices(output_dir))
    return settings.resume and (late_ones or num_tokens(output_dir) > 0)


def features_of_files(
    requests: GenerationRequests, output_dir: Path, extractor: FeatureExtractor
) -> list[FeatureSet]:
    """Features of finished images, which hold the very pixels that features are computed from."""
    pairs = [requests.requests[item] for item in range(requests.num_images)]
    batches = [pairs[start : start + READ_BATCH_SIZE] for start in range(0, len(pairs), READ_BATCH_SIZE)]
    parts = []
    for batch in progress(batches, "features of earlier images"):
        pixels = [read_image(output_dir / IMAGES / image_name(index)) for index, _ in batch]
        indices, labels = torch.tensor(batch).T
        parts.append(FeatureSet.of(extractor(torch.stack(pixels).to(extractor.device)), indices, labels))
    return parts
