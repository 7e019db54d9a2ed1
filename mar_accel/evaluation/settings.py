"""The keys under ``evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.errors import ConfigError

GENERATE, NONE = "generate", "none"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated; see ``conf/evaluate.yaml`` for the defaults.

    Attributes:
        images: None to sample as the config says; else a folder of images, an .npz or a run folder.
        fidelity_images: how many images are compared with the unaccelerated ones of the same seed; 0: none.
        baseline: "generate" samples the unaccelerated images, "none" goes without, else a run folder of them.
        baseline_sampler: keys of the unaccelerated sampler, such as num_iter; None: as in ``sampler=mar``.
        baseline_dir: folder in which evaluations share the unaccelerated images that they sample; None: none.
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
    baseline_dir: str | None = None
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
