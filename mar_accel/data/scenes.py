"""Composed scenes: one to three coloured handwritten digits on a background of another colour.

A scene describes the objects and the background. ``scene_images`` draws scenes; ``captions`` writes captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = 64
# sRGB in 0..1. The colours are easy to distinguish from each other and from each other's shades.
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.20),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (1.00, 0.85, 0.10),
    "purple": (0.65, 0.20, 0.80),
    "white": (0.97, 0.97, 0.97),
}
PLAIN, STRIPES, CHECKS, GRAIN = "plain", "stripes", "checks", "grain"
PATTERNS = (PLAIN, STRIPES, CHECKS, GRAIN)
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

# About half of the backgrounds are plain. The patterns share the rest equally.
_PATTERN_WEIGHTS = (0.49, 0.17, 0.17, 0.17)
# One weight per category. Single digits, which teach the shapes, make up 32 %.
_CATEGORY_WEIGHTS = (0.12, 0.12, 0.20, 0.20, 0.18, 0.18)
# Centres of the objects, (column, row) in pixels: pairs side by side or one above the other, and triangles.
_PAIRS = (((16.0, 32.0), (48.0, 32.0)), ((32.0, 16.0), (32.0, 48.0)))
_TRIPLES = (((16.0, 16.0), (48.0, 16.0), (32.0, 48.0)), ((32.0, 16.0), (16.0, 48.0), (48.0, 48.0)))
# By number of objects: size range of the digits, and maximum shift of a centre, in pixels.
_SIZES = {1: (34.0, 42.0), 2: (24.0, 28.0), 3: (23.0, 26.0)}
_SHIFTS = {1: 5.0, 2: 2.0, 3: 1.5}


@dataclass(frozen=True)
class SceneObject:
    """One digit.

    Attributes:
        digit: class of the digit, 0..9.
        colour: a key of ``COLOURS``.
        column, row: centre in pixels.
        size: side of the scan's square in pixels.
    """

    digit: int
    colour: str
    column: float
    row: float
    size: float


@dataclass(frozen=True)
class Scene:
    """Description of a scene.

    Attributes:
        category: one of ``CATEGORIES`` (as in GenEval), the subject of the caption.
        objects: one to three digits.
        background: background colour, which no object has.
        pattern: one of ``PATTERNS``.
        relation: position of the first object relative to the second ("left", "right", "above", "below").
            "" in all categories except "position".
    """

    category: str
    objects: tuple[SceneObject, ...]
    background: str
    pattern: str
    relation: str = ""


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene. The same generator state gives the same scene."""
    category = CATEGORIES[rng.choice(len(CATEGORIES), p=_CATEGORY_WEIGHTS)]
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))]
    pattern = PATTERNS[rng.choice(len(PATTERNS), p=_PATTERN_WEIGHTS)]
    background = colours.pop()
    if category in ("single_object", "colors"):
        number, same = 1, True
    elif category == "counting":
        number, same = int(rng.integers(2, 4)), True
    else:
        number, same = 2, False
    centres, relation = _arrange(number, category, rng)
    digits = rng.choice(10, size=number, replace=False)
    objects = []
    for index, (column, row) in enumerate(centres):
        shift = rng.uniform(-_SHIFTS[number], _SHIFTS[number], size=2)
        objects.append(
            SceneObject(
                digit=int(digits[0 if same else index]),
                colour=colours[0 if same else index],
                column=float(column + shift[0]),
                row=float(row + shift[1]),
                size=float(rng.uniform(*_SIZES[number])),
            )
        )
    return Scene(category, tuple(objects), background, pattern, relation)


def _arrange(
    number: int, category: str, rng: np.random.Generator
) -> tuple[tuple[tuple[float, float], ...], str]:
    """Centres of the objects in order, and the relation of the first object to the second.

    The relation is "" in all categories except "position".
    """
    if number == 1:
        return ((IMAGE_SIZE / 2, IMAGE_SIZE / 2),), ""
    if number == 3:
        return _TRIPLES[rng.integers(len(_TRIPLES))], ""
    vertical, swapped = int(rng.integers(2)), int(rng.integers(2))
    centres = _PAIRS[vertical][::-1] if swapped else _PAIRS[vertical]
    relation = (("left", "right"), ("above", "below"))[vertical][swapped]
    return centres, relation if category == "position" else ""
