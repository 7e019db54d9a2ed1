"""The small feature network for scenes: it reads objects, colours, layout and background from an image.

It replaces InceptionV3 for the embedded text-to-image model. Its last hidden layer gives the features. It was
trained on drawn scenes and has never seen a generated image. Its model card is in
``mar_accel/assets/scene_features``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from mar_accel.data.scenes import COLOURS, IMAGE_SIZE, PATTERNS, Scene
from mar_accel.errors import DataError
from mar_accel.metrics.feature_weights import load_feature_weights, shipped_file
from mar_accel.metrics.features import FeatureExtractor, Features, check_images
from mar_accel.utils.fingerprints import file_fingerprint

FEATURE_DIM = 64
# Part of the key of cached statistics. Increase it when the same weights give different features.
VERSION = 1
_NAMES = list(COLOURS)
# Layouts: one object, two side by side, two one above the other, three with one below, three with one above.
NUM_LAYOUTS = 5


@dataclass
class SceneTargets:
    """What the network learns to read from B scenes.

    Attributes:
        background, pattern, layout: classes, int64 [B].
        objects: whether each combination of digit and colour is there, float32 [B, 60].
    """

    background: Tensor
    pattern: Tensor
    layout: Tensor
    objects: Tensor

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> SceneTargets:
        objects = torch.zeros(len(scenes), 10 * len(_NAMES), dtype=torch.float32)
        for row, scene in enumerate(scenes):
            for item in scene.objects:
                objects[row, item.digit * len(_NAMES) + _NAMES.index(item.colour)] = 1
        return cls(
            torch.tensor([_NAMES.index(scene.background) for scene in scenes], dtype=torch.int64),
            torch.tensor([PATTERNS.index(scene.pattern) for scene in scenes], dtype=torch.int64),
            torch.tensor([_layout(scene) for scene in scenes], dtype=torch.int64),
            objects,
        )


def _layout(scene: Scene) -> int:
    rows = [item.row for item in scene.objects]
    if len(rows) == 1:
        return 0
    if len(rows) == 2:
        return 2 if abs(rows[0] - rows[1]) > IMAGE_SIZE / 4 else 1
    return 3 if sum(row > IMAGE_SIZE / 2 for row in rows) == 1 else 4


class SceneNetwork(nn.Module):
    """Maps images [B, 3, 64, 64] in 0..1 to features [B, 64].

    ``read`` gives the logits of what a scene shows, as in ``SceneTargets``.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 64, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, FEATURE_DIM))
        self.sizes = (len(_NAMES), len(PATTERNS), NUM_LAYOUTS, 10 * len(_NAMES))
        self.reader = nn.Linear(FEATURE_DIM, sum(self.sizes))

    def forward(self, images: Tensor) -> Tensor:
        # The features are taken before the activation, as in the network for digits.
        features: Tensor = self.body(images * 2 - 1)
        return features

    def read(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits of background [B, 6], pattern [B, 4], layout [B, 5] and objects [B, 60]."""
        return self.reader(F.gelu(features)).split(self.sizes, dim=1)


class SceneFeatures(FeatureExtractor):
    """Features of images of scenes, 64×64 pixels in colour.

    Args:
        weights: a .safetensors file written by ``python -m mar_accel.train_features model=scenes
            dataset=scenes``. None: the shipped file.

    Raises:
        ConfigError: the file is missing or holds a different network.

    Example:
        >>> features = SceneFeatures()(images)  # uint8 [B, 3, 64, 64]
        >>> features.pooled.shape  # [B, 64]
    """

    name = "scenes"
    dim = FEATURE_DIM

    def __init__(self, weights: Annotated[str, MinLen(1)] | None = None):
        super().__init__()
        path = shipped_file("scene_features") if weights is None else Path(weights).expanduser()
        self.network = load_feature_weights(SceneNetwork(), path, "scene")
        self.fingerprint = f"{file_fingerprint(path)}-{VERSION}"
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SceneFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        check_images(images)
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(
                f"features=scenes needs images of 3×{IMAGE_SIZE}×{IMAGE_SIZE}, got "
                f"{'×'.join(map(str, images.shape[1:]))}; use features=inception for other images."
            )
        pooled = self.network(images.float() / 255)
        return Features(pooled, pooled.new_zeros(len(pooled), 0))
