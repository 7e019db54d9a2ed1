"""Prompts about scenes: captions of random scenes, and a fixed set for evaluation."""

from __future__ import annotations

import numpy as np

from mar_accel.data.captions import caption
from mar_accel.data.scenes import CATEGORIES, Scene, draw_scene

# Seeds apart from those of training.
_CAPTION_SEED, _EVALUATION_SEED, _REFERENCE_SEED = 7001, 7002, 7003


def random_captions(count: int) -> list[str]:
    """Captions of random scenes. Caption i is the same for any ``count``."""
    captions = []
    for number in range(count):
        rng = np.random.default_rng([_CAPTION_SEED, number])
        captions.append(caption(draw_scene(rng), rng))
    return captions


def evaluation_captions(count: int) -> list[str]:
    """Prompts of the evaluation. Caption i is the same for any ``count``."""
    return [evaluation_scene(number)[1] for number in range(count)]


def evaluation_scene(number: int) -> tuple[Scene, str]:
    """The scene that prompt ``number`` of the evaluation describes, and the prompt.

    The six categories take turns.
    """
    rng = np.random.default_rng([_EVALUATION_SEED, number])
    scene = _scene_of(CATEGORIES[number % len(CATEGORIES)], rng)
    return scene, caption(scene, rng)


def reference_scene(number: int, balanced: bool) -> Scene:
    """Scene ``number`` of those that generated images are compared with.

    Args:
        number: ≥ 0.
        balanced: the six categories take turns, as in the evaluation. False: as often as in the training.
    """
    rng = np.random.default_rng([_REFERENCE_SEED, number])
    return _scene_of(CATEGORIES[number % len(CATEGORIES)], rng) if balanced else draw_scene(rng)


def _scene_of(category: str, rng: np.random.Generator) -> Scene:
    scene = draw_scene(rng)
    while scene.category != category:
        scene = draw_scene(rng)
    return scene
