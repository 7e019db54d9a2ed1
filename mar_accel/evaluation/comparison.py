"""Images beside the unaccelerated ones of the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import ConfigError
from mar_accel.evaluation.result import Comparison, Evaluation
from mar_accel.evaluation.settings import EvaluationSettings
from mar_accel.metrics.fidelity import fidelity
from mar_accel.metrics.lpips import lpips
from mar_accel.weights.sources import EMBEDDED_MODELS, embedded_folder

WEIGHTS = "model.weights"
# Runs that differ in one of these have other classes, other noise or another model at the same sample index.
PAIRING_KEYS = (
    "seed",
    "model.name",
    "model.architecture",
    WEIGHTS,
    "sampler.guidance_scale",
    "dataset.labels",
    "dataset.images_per_class",
)


def open_baseline(config: DictConfig, settings: EvaluationSettings) -> ImageSet | None:
    """The folder of unaccelerated images that ``evaluate.baseline`` names, or None.

    Args:
        config: what the images that are to be compared are sampled with.

    Raises:
        DataError: there are no images in it.
        ConfigError: it is of a run whose samples are others, so that comparing them one by one means nothing.
    """
    if settings.baseline_folder is None or not settings.fidelity_images:
        return None
    images = open_images(settings.baseline_folder, "evaluate.baseline")
    recorded = OmegaConf.create(images.record.get("config") or {})
    ours = "this run has" if settings.images is None else f"evaluate.images={settings.images} with"
    for key in PAIRING_KEYS if recorded else ():
        there, here = _plain(recorded, key), _plain(config, key)
        if not (_same_weights(there, here) if key == WEIGHTS else there == here):
            raise ConfigError(
                f"evaluate.baseline={settings.baseline_folder} was sampled with {key}={there} but {ours} "
                f"{here}; give a run of the same samples, generate to sample them now, or "
                "evaluate.fidelity_images=0 to compare none."
            )
    return images


def _same_weights(there: str | None, here: str | None) -> bool:
    """Whether two values of ``model.weights`` name the same, however they spell it.

    A relative path belongs to the folder that its command ran in, which no record tells: where it leads
    nowhere from here, it is taken for every path that ends with it.
    """
    if there is None or here is None or there == here:
        # Images that no record describes may be of any weights: the config then names none.
        return True
    paths = [_weights_path(there), _weights_path(here)]
    if all(path.exists() for path in paths):
        return paths[0].resolve() == paths[1].resolve()
    tails = [[part for part in path.parts if part != ".."] for path in paths]
    short, long = sorted(tails, key=len)
    return bool(short) and long[-len(short) :] == short


def _weights_path(weights: str) -> Path:
    return embedded_folder(weights) if weights in EMBEDDED_MODELS else Path(weights).expanduser()


def _plain(config: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


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
    evaluation.baseline = baseline.record.get("config_hash") or str(baseline.path)


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


def check_lpips(settings: EvaluationSettings) -> None:
    """Raise ConfigError where LPIPS is asked for and cannot be had: before an hour of sampling."""
    if settings.lpips:
        blank = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        lpips(blank, blank)


def add_lpips(evaluation: Evaluation, settings: EvaluationSettings) -> None:
    """Add the perceptual distance of the compared images, where it is asked for."""
    if settings.lpips and evaluation.comparison is not None:
        distances = lpips(evaluation.comparison.images, evaluation.comparison.baseline)
        evaluation.metrics["lpips"] = float(distances.mean())
