"""Comparison of images with the unaccelerated images of the same seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Sampled:
    """The settings that images were sampled with.

    Attributes:
        samples: settings that determine class and noise of a sample index, without the weights.
        weights: the model's weights as named in the config; None if unknown.
        content: digest of these weights at the time of sampling; None if unknown.
    """

    samples: dict[str, Any]
    weights: str | None
    content: str | None

    @classmethod
    def of(cls, settings: Settings, identity: Identity) -> Sampled:
        """The sampling settings of a config."""
        samples = {key: value for key, value in identity.samples.items() if key != "weights"}
        model = {
            key: value for key, value in samples["model"].items() if key not in ("weights", "autoencoder")
        }
        content = identity.samples["weights"]["model"]
        return cls({**samples, "model": model}, settings.model.weights, content)

    @classmethod
    def recorded(cls, images: ImageSet) -> Sampled | None:
        """The sampling settings in the record of a run; None without a record."""
        config = images.record.get("config")
        if not config:
            return None
        settings = check_settings(Settings, config)
        sampled = cls.of(settings, Identity.of(settings))
        # The weight file may have changed since then.
        content = (images_identity(images.path) or {}).get("weights", {}).get("model", sampled.content)
        return replace(sampled, content=content)

    def differs_from(self, other: Sampled) -> tuple[str, Any, Any] | None:
        """The first config key that makes the samples differ, with both values; None if they agree."""
        for key, ours, theirs in differences(self.samples, other.samples):
            return {"guidance_scale": "sampler.guidance_scale"}.get(key, key), ours, theirs
        if not self._same_weights(other):
            return "model.weights", self.weights, other.weights
        return None

    def _same_weights(self, other: Sampled) -> bool:
        """Whether the weights are the same, by content if it is known, else by path.

        Records do not store the working directory that a relative path refers to.
        So a path counts as equal to every path that ends with it.
        """
        if self.weights is None or other.weights is None or self.weights == other.weights:
            return self.content is None or other.content is None or self.content == other.content
        if self.content is not None and other.content is not None:
            return self.content == other.content
        tails = [[part for part in Path(w).parts if part != ".."] for w in (self.weights, other.weights)]
        short, long = sorted(tails, key=len)
        return bool(short) and long[-len(short) :] == short


def open_baseline(settings: EvaluateSettings, sampled: Sampled, by: str) -> ImageSet | None:
    """The unaccelerated images in the folder ``evaluate.baseline``, or None without such a folder.

    Args:
        settings: settings of the evaluation.
        sampled: sampling settings of the images to compare.
        by: description of these images, for messages.

    Raises:
        DataError: the folder has no images.
        ConfigError: the folder has other samples, so images cannot be compared one by one.
    """
    folder = settings.baseline_folder
    if folder is None or not settings.fidelity_images:
        return None
    images = open_images(folder, "evaluate.baseline")
    recorded = Sampled.recorded(images)
    difference = recorded.differs_from(sampled) if recorded is not None else None
    if difference is not None:
        key, theirs, ours = difference
        raise ConfigError(
            f"evaluate.baseline={folder} was sampled with {key}={theirs} but {by} {ours}; use a run of the "
            "same samples, generate to sample them now, or evaluate.fidelity_images=0 to compare none."
        )
    return images


def compare_with_folder(
    evaluation: Evaluation, images: Tensor, tokens: Tensor | None, labels: Tensor, baseline: ImageSet
) -> None:
    """Add the fidelity to the images of a folder, for as many images as both sets have.

    If tokens of some images are missing, there is no latent MSE, and a warning is added.
    """
    count = min(len(images), baseline.num_images)
    ours, theirs = (None if part is None else part[:count] for part in (tokens, baseline.tokens))
    known = [0 if part is None else len(part) for part in (ours, theirs)]
    if min(known) < count:
        evaluation.warnings.append(
            f"no latent MSE: {count} images are compared, but tokens are known for {known[0]} of them here "
            f"and for {known[1]} in {baseline.path}."
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
    """Add the fidelity of images to the baseline images of the same samples.

    Args:
        images, baseline: uint8 [n, C, H, W].
        tokens, baseline_tokens: [n, L, C], or None.
        labels: class labels [n].
    """
    agreement = fidelity(images, baseline, tokens, baseline_tokens)
    evaluation.comparison = Comparison(images, baseline, labels, agreement)
    evaluation.metrics |= agreement.summary()
    evaluation.metrics["fidelity_images"] = len(images)


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
