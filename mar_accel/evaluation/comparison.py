"""Comparison of images with the unaccelerated images of the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mar_accel.config.settings import EvaluateSettings
from mar_accel.data.image_sets import ImageSet, Key
from mar_accel.evaluation.result import Comparison, Evaluation
from mar_accel.metrics.fidelity import fidelity
from mar_accel.metrics.lpips import lpips


def compare_with_folder(
    evaluation: Evaluation,
    images: Tensor,
    tokens: Sequence[Tensor],
    labels: Tensor,
    keys: Sequence[Key],
    baseline: ImageSet,
) -> None:
    """Add the fidelity to the images of a folder with the same keys.

    If tokens of some images are missing, there is no latent MSE, and a warning is added.

    Args:
        images: uint8 [n, C, H, W].
        tokens: tokens [L, C] of those of the images whose tokens are known.
        labels: class labels [n].
        keys: sample indices (or paths) [n]; the baseline has all of them.
    """
    theirs = baseline.tokens_of(keys)
    ours, others = None, None
    if min(len(tokens), len(theirs)) < len(images):
        evaluation.warnings.append(
            f"no latent MSE: {len(images)} images are compared, but only {len(tokens)} have known tokens "
            f"here and {len(theirs)} in {baseline.path}."
        )
    else:
        ours, others = torch.stack(list(tokens)), torch.stack(theirs)
    compare(evaluation, (images, ours), (baseline.at(keys), others), labels, keys)
    evaluation.baseline = baseline.record.get("identity", {}).get("evaluation") or str(baseline.path)


# Images uint8 [n, C, H, W], and their tokens [n, L, C] or None.
Samples = tuple[Tensor, Tensor | None]


def compare(
    evaluation: Evaluation, ours: Samples, baseline: Samples, labels: Tensor, keys: Sequence[Key]
) -> None:
    """Add the fidelity of images to the baseline images of the same samples.

    Args:
        ours, baseline: images and tokens in the same order.
        labels: class labels [n].
        keys: sample indices (or paths) [n].
    """
    agreement = fidelity(ours[0], baseline[0], ours[1], baseline[1])
    evaluation.comparison = Comparison(ours[0], baseline[0], labels, keys, agreement)
    evaluation.metrics |= agreement.summary()
    evaluation.metrics["fidelity_images"] = len(keys)


def check_lpips(settings: EvaluateSettings) -> None:
    """Raise ConfigError if LPIPS is requested but not available, before a long sampling run."""
    if settings.lpips:
        blank = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        lpips(blank, blank)


def add_lpips(evaluation: Evaluation, settings: EvaluateSettings) -> None:
    """Add the LPIPS of the compared images, if it is requested."""
    if settings.lpips and evaluation.comparison is not None:
        distances = lpips(evaluation.comparison.images, evaluation.comparison.baseline)
        evaluation.metrics["lpips"] = float(distances.mean())
