"""Comparison of images with the unaccelerated images of the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mar_accel.config.check import check_settings
from mar_accel.config.settings import EvaluateSettings, Settings
from mar_accel.data.image_sets import ImageSet, Key, open_images
from mar_accel.errors import ConfigError, DataError
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


def open_baseline(
    settings: EvaluateSettings, sampled: Sampled, by: str, keys: Sequence[Key]
) -> ImageSet | None:
    """The unaccelerated images in the folder ``evaluate.baseline``, or None without such a folder.

    Args:
        settings: settings of the evaluation.
        sampled: sampling settings of the images to compare.
        by: description of these images, for messages.
        keys: keys of these images.

    Raises:
        DataError: the folder has no images, or lacks one that is to be compared.
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
    _require_partners(folder, images, keys)
    return images


def _require_partners(folder: str, baseline: ImageSet, keys: Sequence[Key]) -> None:
    there = set(baseline.keys)
    missing = [key for key in keys if key not in there]
    if missing:
        raise DataError(
            f"evaluate.baseline={folder} lacks {len(missing)} of {len(keys)} images to compare, first "
            f"{missing[0]} ({baseline.keys[0]} is its first); images are paired by sample index, so "
            "sample the missing ones or lower evaluate.fidelity_images."
        )


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
