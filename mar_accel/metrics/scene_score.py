"""Whether images of scenes show what their prompts describe, in GenEval's categories (arXiv:2310.11513)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.data.scene_prompts import evaluation_captions, evaluation_scene
from mar_accel.data.scenes import CATEGORIES, IMAGE_SIZE, Scene
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.scene_objects import FoundObject, find_objects

# Smallest distance in pixels, along the axis of the relation, between objects beside each other.
MIN_DISTANCE = 6.0


def is_right(scene: Scene, found: Sequence[FoundObject]) -> bool:
    """Whether found objects are what the category of a scene asks for. Other objects do not matter.

    - single_object: the digit is there. two_object: both digits are.
    - counting: it is there exactly as many times as described.
    - colors: the digit is there in its colour. color_attr: both digits are, each in its own.
    - position: both digits are there, the first one on the described side of the second.
    """
    digits = [item.digit for item in found]
    wanted = [(item.digit, item.colour) for item in scene.objects]
    rules: dict[str, Callable[[], bool]] = {
        "single_object": lambda: wanted[0][0] in digits,
        "two_object": lambda: all(digit in digits for digit, _ in wanted),
        "counting": lambda: digits.count(wanted[0][0]) == len(wanted),
        "colors": lambda: wanted[0] in [(item.digit, item.colour) for item in found],
        "color_attr": lambda: all(w in [(item.digit, item.colour) for item in found] for w in wanted),
        "position": lambda: _is_placed(scene, found),
    }
    return rules[scene.category]()


def _is_placed(scene: Scene, found: Sequence[FoundObject]) -> bool:
    first, second = ([o for o in found if o.digit == item.digit] for item in scene.objects)
    sign = -1 if scene.relation in ("left", "above") else 1
    axis = "column" if scene.relation in ("left", "right") else "row"
    return any(sign * (getattr(a, axis) - getattr(b, axis)) >= MIN_DISTANCE for a in first for b in second)


class SceneScore(Metric):
    """Share of the images that are right, by category, and their mean ("overall").

    Args:
        prompts: the prompts of the images, to check that they are those of ``dataset=scenes_eval``.
            None: they are not checked.

    Raises:
        ConfigError: the prompts are others.

    The images must be those of ``dataset=scenes_eval``: their labels are numbers of its prompts. Objects are
    found by rules; on real scenes of these prompts, 98.6 % to 99.8 % of the images of each category count as
    right (docs/text.md).

    Example:
        >>> score = SceneScore()
        >>> score.update(images, labels)  # uint8 [B, 3, 64, 64], int64 [B]
        >>> score.compute()["position"]
    """

    full_state_update = False
    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self, prompts: Sequence[str] | None = None) -> None:
        super().__init__()
        if prompts is not None and list(prompts) != evaluation_captions(len(prompts)):
            raise ConfigError(
                "metrics=scenes_eval judges images of the prompts of dataset=scenes_eval, and these are "
                "others; choose dataset=scenes_eval or metrics=none."
            )
        for name in ("right", "total"):
            zeros = torch.zeros(len(CATEGORIES), dtype=torch.long)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add images uint8 [B, 3, 64, 64] of prompts [B]."""
        for name, values in self.per_image(images, labels).items():
            if name in CATEGORIES:
                number, known = CATEGORIES.index(name), ~values.isnan()
                self.total[number] += int(known.sum())
                self.right[number] += int(values[known].sum())

    def per_image(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Whether each image is right (1 or 0), which pairs of runs are compared by.

        Args:
            images: uint8 [B, 3, 64, 64]. labels: numbers of prompts, int64 [B].

        Returns:
            float64 [B] by category, and "overall". It is NaN for the images of other categories.
        """
        self._check(images, labels)
        unknown = torch.full((len(images),), torch.nan, dtype=torch.float64)
        values = {name: unknown.clone() for name in ("overall", *CATEGORIES)}
        for place, (image, label) in enumerate(zip(images.cpu(), labels.tolist(), strict=True)):
            scene, _ = evaluation_scene(label)
            right = float(is_right(scene, find_objects(image)))
            values["overall"][place] = values[scene.category][place] = right
        return values

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if bool((labels < 0).any()):
            raise DataError(
                "metrics=scenes_eval needs the numbers of the prompts, which a folder of images does not "
                "have; evaluate a run folder."
            )
        if images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(
                f"metrics=scenes_eval needs images of 3×{IMAGE_SIZE}×{IMAGE_SIZE}, got "
                f"{'×'.join(map(str, images.shape[1:]))}; use it with model=scenes."
            )

    def compute(self) -> dict[str, Any]:
        """Shares by category, of those with images, and their mean."""
        shares = {
            name: self.right[number] / self.total[number]
            for number, name in enumerate(CATEGORIES)
            if self.total[number]
        }
        return {"overall": torch.stack(list(shares.values())).mean(), **shares}
