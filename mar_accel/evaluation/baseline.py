"""The folder with unaccelerated images that a config names, and whether its samples are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mar_accel.config.check import check_settings
from mar_accel.config.settings import EvaluateSettings, Settings
from mar_accel.data.image_sets import ImageSet, Key, open_images
from mar_accel.errors import ConfigError, DataError
from mar_accel.runs.folder import images_identity
from mar_accel.runs.identity import Identity, config_key, differences
from mar_accel.runs.stored import recorded_in


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
        with recorded_in(images.path):
            settings = check_settings(Settings, config)
            sampled = cls.of(settings, Identity.of(settings))
        # The files of weights and of given pictures may have changed since then.
        then = images_identity(images.path) or {}
        content = then.get("weights", {}).get("model", sampled.content)
        given = {"inpainted": then["inpainted"]} if "inpainted" in then else {}
        return replace(sampled, samples={**sampled.samples, **given}, content=content)

    def differs_from(self, other: Sampled) -> tuple[str, Any, Any] | None:
        """The first config key that makes the samples differ, with both values; None if they agree."""
        for key, ours, theirs in differences(self.samples, other.samples):
            return config_key(key), ours, theirs
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


def require_size(baseline: ImageSet, shape: Sequence[int], by: str) -> None:
    """Raise DataError if the unaccelerated images have another size or number of channels.

    Args:
        baseline: the unaccelerated images.
        shape: channels, height and width of the images to compare.
        by: what makes these images, for messages.
    """
    theirs = tuple(baseline.first(1).shape[1:])
    if theirs != tuple(shape):
        there, here = ("×".join(map(str, sizes)) for sizes in (theirs, shape))
        raise DataError(
            f"evaluate.baseline={baseline.path} has images of {there} (channels, height, width), but {by} "
            f"{here}; choose images of the same size, or evaluate.fidelity_images=0."
        )
