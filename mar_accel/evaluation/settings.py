"""The keys under ``evaluate``, and the hash that names a config."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.errors import ConfigError
from mar_accel.metrics.features import file_fingerprint
from mar_accel.weights.folder import CONFIG_FILE

# What images and numbers depend on; where they are written and how they are shown does not count.
HASHED_KEYS = ("model", "sampler", "cache", "dataset", "features", "reference", "seed", "evaluate.images")
# A model's defaults count where they are used: in the sampler and in the cache.
NOT_HASHED = (
    ("reference", "cache_dir"),
    ("dataset", "training_data"),
    ("model", "guidance_scale"),
    ("model", "max_timestep"),
    ("model", "head_refresh_below"),
)
GENERATE, NONE = "generate", "none"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated; see ``conf/evaluate.yaml`` for the defaults.

    Attributes:
        images: None to sample as the config says; else a folder of images, an .npz or a run folder.
        fidelity_images: how many images are compared with the unaccelerated ones of the same seed; 0: none.
        baseline: "generate" samples the unaccelerated images, "none" goes without, else a run folder of them.
        baseline_sampler: keys of the unaccelerated sampler, such as num_iter; None: as in ``sampler=mar``.
        timing_rounds: interleaved rounds (of one batch each) of this config and the baseline; 0: no speedup.
        lpips: measure the perceptual distance to the unaccelerated images too; needs torchvision.
        profile: sample one more batch to find where the time goes.
        save_images: keep every image, and not only the grid.
        resume: take the images that an earlier run of the same config left in the run folder as they are.
    """

    images: str | None = None
    fidelity_images: int = 64
    baseline: str = GENERATE
    baseline_sampler: dict[str, Any] = field(default_factory=dict)
    timing_rounds: int = 3
    lpips: bool = False
    profile: bool = True
    save_images: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        for key in ("fidelity_images", "timing_rounds"):
            if getattr(self, key) < 0:
                raise ConfigError(f"evaluate.{key}={getattr(self, key)} is negative; give 0 or more.")

    @staticmethod
    def of(config: DictConfig) -> EvaluationSettings:
        """The settings of a composed config."""
        return EvaluationSettings(**OmegaConf.to_container(config.evaluate, resolve=True))  # type: ignore[arg-type]

    @property
    def baseline_folder(self) -> str | None:
        """The run folder with the unaccelerated images, where one was named."""
        return None if self.baseline in (GENERATE, NONE) else self.baseline


def config_hash(config: DictConfig, any_number: bool = False) -> str:
    """Twelve hexadecimal digits that name what a config computes: the same for the same images.

    Args:
        any_number: the same for any number of these images, too.
    """
    content: dict[str, Any] = {}
    for key in HASHED_KEYS:
        value = OmegaConf.select(config, key)
        content[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    for group, key in (*NOT_HASHED, *([("dataset", "num_images")] if any_number else ())):
        (content[group] or {}).pop(key, None)
    content["precision"] = config.trainer.precision
    content["weights"] = _weights_fingerprint(config.model.weights)
    text = json.dumps(_as_numbers(content), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_numbers(value: Any) -> Any:
    """The same with whole floats as integers: a scale of 4.0 is one of 4."""
    if isinstance(value, dict):
        return {key: _as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _weights_fingerprint(weights: str) -> list[list[object]]:
    """Content of embedded weights, name, size and time of other files: new weights are a new config.

    What a folder says of its model is in the config.
    """
    embedded = Path(__file__).resolve().parent.parent / "assets" / str(weights)
    root, is_embedded = (embedded, True) if embedded.is_dir() else (Path(str(weights)), False)
    files = sorted(root.glob("*")) if root.is_dir() else [root] if root.is_file() else []
    return [
        [file.name, file_fingerprint(file) if is_embedded else [file.stat().st_size, file.stat().st_mtime_ns]]
        for file in files
        if file.is_file() and file.suffix != ".md" and file.name != CONFIG_FILE
    ]
