"""Finds the coloured digits in an image of a scene, by rules and the digit network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mar_accel.data.scenes import COLOURS
from mar_accel.metrics.digit_features import SCAN_SIZE, DigitNetwork, shipped_digit_network

NAMES = tuple(COLOURS)
# Brightness of a background pixel as a multiple of its colour; patterns go down to 0.62.
DARKEST, BRIGHTEST = 0.5, 1.1
# Pixels of a frame at the edge of the image, which shows the background.
FRAME = 3
# Largest colour error of a pixel that belongs to an object, and smallest coverage.
MAX_ERROR, MIN_COVERAGE = 0.25, 0.5
# Smallest number of pixels of an object.
MIN_PIXELS = 30
# A piece with fewer pixels is joined to a larger one at most GAP pixels away.
OWN_PIXELS, GAP = 60, 3
# Largest extent of one object, and of an object beside another one.
MAX_SINGLE, MAX_PAIRED = 48, 34
# Sides of the square around an object that is read as a scan, as multiples of its larger extent. Their
# logits are averaged.
SIDES = (0.9, 1.0, 1.1)


@dataclass(frozen=True)
class FoundObject:
    """A digit found in an image.

    Attributes:
        digit: class of the digit, 0..9.
        colour: a key of ``COLOURS``.
        column, row: centre in pixels.
    """

    digit: int
    colour: str
    column: float
    row: float


def find_objects(image: Tensor) -> list[FoundObject]:
    """Find the objects of a scene.

    Args:
        image: uint8 [3, 64, 64].

    Returns:
        The objects, in no particular order.
    """
    from scipy import ndimage

    pixels = image.permute(1, 2, 0).numpy().astype(np.float32) / 255
    background = background_colour(pixels)
    colour, coverage = object_coverage(pixels, background)
    found = []
    for number, name in enumerate(NAMES):
        mask = (colour == number) & (coverage > MIN_COVERAGE)
        labels, _ = ndimage.label(mask, np.ones((3, 3)))
        for part in _joined(labels, ndimage.find_objects(labels)):
            if part.sum() >= MIN_PIXELS:
                near = ndimage.binary_dilation(part, np.ones((3, 3))) & (colour == number)
                found.append(_named(np.where(near, coverage, 0), part, name))
    return found


def _joined(labels: np.ndarray, boxes: Sequence[tuple[slice, slice]]) -> list[np.ndarray]:
    """Masks of the objects: pieces of strokes whose boxes overlap, or nearly touch, are one object.

    Large pieces are objects of their own.
    """
    groups: list[list[int]] = []
    sizes = np.bincount(labels.ravel())[1:]
    for piece in sorted(range(len(boxes)), key=lambda n: -sizes[n]):
        owner = next(
            (g for g in groups if _belongs(boxes[piece], boxes[g[0]], small=sizes[piece] < OWN_PIXELS)), None
        )
        if owner is None:
            groups.append([piece])
        else:
            owner.append(piece)
    masks = [np.isin(labels, [piece + 1 for piece in group]) for group in groups]
    return [half for mask in masks for half in _halves(mask)]


def _belongs(a: tuple[slice, slice], b: tuple[slice, slice], small: bool) -> bool:
    """Whether a piece in box a belongs to the object of the larger piece in box b."""
    if not all(x.start <= y.stop + GAP and y.start <= x.stop + GAP for x, y in zip(a, b, strict=True)):
        return False
    extents = [max(x.stop, y.stop) - min(x.start, y.start) for x, y in zip(a, b, strict=True)]
    return small or max(extents) <= MAX_PAIRED


def _halves(mask: np.ndarray) -> list[np.ndarray]:
    """The mask, or its halves if it is too long for one object: then two objects touch."""
    rows, columns = np.nonzero(mask)
    for axis, places in enumerate((rows, columns)):
        start, stop = places.min(), places.max() + 1
        if stop - start > MAX_SINGLE:
            # Two objects touch where the ink is least, near the middle.
            ink, middle = mask.sum(1 - axis), (start + stop) // 2
            cut = middle - 5 + int(np.argmin(ink[middle - 5 : middle + 6]))
            numbers = np.arange(mask.shape[axis])
            before = np.expand_dims(numbers < cut, 1 - axis)
            return [mask & before, mask & ~before]
    return [mask]


def background_colour(pixels: np.ndarray) -> int:
    """Number of the colour that most pixels of the frame have, at any brightness."""
    frame = np.ones(pixels.shape[:2], bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    values = pixels[frame]
    errors = []
    for colour in COLOURS.values():
        c = np.asarray(colour, np.float32)
        shade = np.clip(values @ c / (c @ c), DARKEST, BRIGHTEST)
        errors.append(np.linalg.norm(values - shade[:, None] * c, axis=1))
    return int(np.bincount(np.argmin(errors, axis=0), minlength=len(NAMES)).argmax())


def object_coverage(pixels: np.ndarray, background: int) -> tuple[np.ndarray, np.ndarray]:
    """The object colour that explains each pixel best, and how much of the pixel it covers.

    A pixel is a mixture u·background + α·colour, where u = (1 − α)·shade.

    Returns:
        Numbers of colours [H, W], −1 where no mixture fits, and α [H, W].
    """
    b = np.asarray(COLOURS[NAMES[background]], np.float32)
    best = np.full(pixels.shape[:2], np.inf, np.float32)
    colour, coverage = np.full(best.shape, -1), np.zeros_like(best)
    for number, name in enumerate(NAMES):
        if number == background:
            continue
        c = np.asarray(COLOURS[name], np.float32)
        solution = pixels @ np.linalg.pinv(np.stack([b, c], 1)).T
        alpha = np.clip(solution[..., 1], 0, 1)
        u = np.clip(solution[..., 0], (1 - alpha) * DARKEST, (1 - alpha) * BRIGHTEST)
        error = np.linalg.norm(pixels - u[..., None] * b - alpha[..., None] * c, axis=-1)
        better = error < best
        best = np.where(better, error, best)
        colour, coverage = np.where(better, number, colour), np.where(better, alpha, coverage)
    return np.where(best < MAX_ERROR, colour, -1), coverage


def _named(ink: np.ndarray, part: np.ndarray, colour: str) -> FoundObject:
    rows, columns = np.nonzero(part)
    row, column = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    side = max(rows.max() - rows.min(), columns.max() - columns.min()) + 1
    tensor = torch.from_numpy(ink.astype(np.float32))
    scans = torch.cat([to_scan(tensor, column, row, side * factor) for factor in SIDES])
    with torch.inference_mode():
        digit = int(_network()(scans)[1].softmax(1).mean(0).argmax())
    return FoundObject(digit, colour, float(column), float(row))


def to_scan(ink: Tensor, column: float, row: float, side: float) -> Tensor:
    """A square of an image [H, W], as a scan [1, 1, 8, 8] by area averages."""
    height, width = ink.shape
    scale_x, scale_y = side / width, side / height
    shift_x, shift_y = 2 * column / width - 1, 2 * row / height - 1
    theta = torch.tensor([[[scale_x, 0.0, shift_x], [0.0, scale_y, shift_y]]], dtype=torch.float32)
    fine = 6 * SCAN_SIZE
    grid = torch.nn.functional.affine_grid(theta, [1, 1, fine, fine], align_corners=False)
    sampled = torch.nn.functional.grid_sample(ink[None, None], grid, align_corners=False)
    return torch.nn.functional.avg_pool2d(sampled, 6)


@cache
def _network() -> DigitNetwork:
    return shipped_digit_network()
