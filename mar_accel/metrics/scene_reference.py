"""Drawn scenes as the reference for generated ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scene_prompts import reference_scene
from mar_accel.errors import ConfigError
from mar_accel.metrics.features import FeatureExtractor, quantise
from mar_accel.metrics.reference import BATCH_SIZE, RealImages, Reference, ReferenceSource

# Scans, augmentation and patterns are drawn with this seed.
_SEED = 7004
# All features are in memory before some are chosen. More scenes change no statistic, and take days to draw.
MAX_IMAGES = 1_000_000


class SceneReference(ReferenceSource):
    """Scenes that are drawn like those of the training; their statistics are computed once and cached.

    Args:
        balanced: the six categories are equally frequent, as in ``dataset=scenes_eval``. False: as frequent
            as in the training, and in ``dataset=scenes``.
        num_images: number of scenes, 2 to 1,000,000.
        cache_dir: folder of cached statistics. None: mar_accel/statistics in the user's cache folder.

    Example:
        >>> reference = SceneReference(balanced=True).load(SceneFeatures())
    """

    def __init__(
        self,
        balanced: bool = False,
        num_images: Annotated[int, Ge(2), Le(MAX_IMAGES)] = 10_000,
        cache_dir: Annotated[str, MinLen(1)] | None = None,
    ):
        super().__init__("scenes", cache_dir=cache_dir)
        if not 2 <= num_images <= MAX_IMAGES:
            raise ConfigError(
                f"reference.num_images must be between 2 and {MAX_IMAGES:,}, got {num_images:,}."
            )
        self.balanced = balanced
        self.num_images = num_images

    def check(self) -> None:
        """Nothing can be missing, since the scenes are drawn with scikit-learn's digits."""

    def load(self, extractor: FeatureExtractor, device: torch.device | str = "cpu") -> Reference:
        """Statistics and features of the drawn scenes, computed with ``extractor``."""
        kind = "balanced" if self.balanced else "as in training"
        name = f"{self.num_images:,} drawn scenes, {kind}"
        return self._cached(name, f"scenes-{self.balanced}-{self.num_images}", extractor, device, self._drawn)

    def _drawn(self) -> RealImages:
        return RealImages(drawn_scenes(self.num_images, self.balanced), self.num_images)


def drawn_scenes(count: int, balanced: bool) -> Iterator[Tensor]:
    """Batches of drawn scenes, uint8 [B, 3, 64, 64].

    Image i is the same for any ``count`` of whole batches.
    """
    draw = SceneDrawer()
    for start in range(0, count, BATCH_SIZE):
        numbers = range(start, min(start + BATCH_SIZE, count))
        scenes = [reference_scene(number, balanced) for number in numbers]
        yield quantise(draw(scenes, np.random.default_rng([_SEED, start])))
