"""Images beside the unaccelerated ones of the same seed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mar_accel.config.check import check_settings
from mar_accel.config.settings import EvaluateSettings, Settings
from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import ConfigError
from mar_accel.evaluation.result import Comparison, Evaluation
from mar_accel.metrics.fidelity import fidelity
from mar_accel.metrics.lpips import lpips
from mar_accel.runs.folder import images_identity
from mar_accel.runs.identity import Identity, differences


def open_baseline(settings: Settings, identity: Identity, sampled_by: str) -> ImageSet | None:
    """The folder of unaccelerated images that ``evaluate.baseline`` names, or None.

    Args:
        identity: of the images that are to be compared.
        sampled_by: what these images are, for messages.

    Raises:
        DataError: there are no images in it.
        ConfigError: it is of a run with other samples, so that comparing them one by one means nothing.
    """
    folder = settings.evaluate.baseline_folder
    if folder is None or not settings.evaluate.fidelity_images:
        return None
    images = open_images(folder, "evaluate.baseline")
    there = recorded_identity(images)
    for key, theirs, ours in differences(there.samples, identity.samples) if there else ():
        raise ConfigError(
            f"evaluate.baseline={folder} was sampled with {_key_of(key)}={theirs} but {sampled_by} {ours}; "
            "give a run of the same samples, generate to sample them now, or evaluate.fidelity_images=0 to "
            "compare none."
        )
    return images


def recorded_identity(images: ImageSet) -> Identity | None:
    """The identity of a run's images; None where no record tells it."""
    config = images.record.get("config")
    if not config:
        return None
    recorded = Identity.of(check_settings(Settings, config))
    content = images_identity(images.path)
    # The content of the weights when the images were sampled, which may have changed since.
    weights = {"weights": content["weights"]} if content else {}
    return replace(recorded, samples={**recorded.samples, **weights})


def _key_of(key: str) -> str:
    """The config key that an identity's key stands for."""
    return {"weights.model": "model.weights of content", "guidance_scale": "sampler.guidance_scale"}.get(
        key, key
    )


def compare_with_folder(
    evaluation: Evaluation, images: Tensor, tokens: Tensor | None, labels: Tensor, baseline: ImageSet
) -> None:
    """Add the fidelity to the images of a folder: as many as there are of both.

    Without the tokens of all of them there is no latent MSE, which a warning says.
    """
    count = min(len(images), baseline.num_images)
    ours, theirs = (None if part is None else part[:count] for part in (tokens, baseline.tokens))
    known = [0 if part is None else len(part) for part in (ours, theirs)]
    if min(known) < count:
        evaluation.warnings.append(
            f"no latent MSE: of the {count} compared images, the tokens of {known[0]} are known, and of "
            f"{known[1]} in {baseline.path}."
        )
        ours = theirs = None
    compare(evaluation, images[:count], ours, labels[:count], baseline.first(count), theirs)
    evaluation.baseline = baseline.record.get("identity", {}).get("evaluation") or str(baseline.path)


def compare(
    evaluation: Evaluation,
    images: Tensor,
    tokens: Tensor | None,
    labels: Tensor,
    baseline: Tensor,
    baseline_tokens: Tensor | None,
) -> None:
    """Add the fidelity of images uint8 [n, C, H, W] (and tokens [n, L, C]) to those of the same samples."""
    agreement = fidelity(images, baseline, tokens, baseline_tokens)
    evaluation.comparison = Comparison(images, baseline, labels, agreement)
    evaluation.metrics |= agreement.summary()
    evaluation.metrics["fidelity_images"] = len(images)


def check_lpips(settings: EvaluateSettings) -> None:
    """Raise ConfigError where LPIPS is asked for and cannot be had: before an hour of sampling."""
    if settings.lpips:
        blank = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        lpips(blank, blank)


def add_lpips(evaluation: Evaluation, settings: EvaluateSettings) -> None:
    """Add the perceptual distance of the compared images, where it is asked for."""
    if settings.lpips and evaluation.comparison is not None:
        distances = lpips(evaluation.comparison.images, evaluation.comparison.baseline)
        evaluation.metrics["lpips"] = float(distances.mean())
