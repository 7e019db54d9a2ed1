"""Classes of the tokens of scenes, which training can predict: what is at a token, and what is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.data.digits import load_scans
from mar_accel.data.scenes import COLOURS, IMAGE_SIZE, PATTERNS, Scene

# Side of a token in pixels, and the number of levels of ink in a token.
TOKEN_SIDE = 4
INK_LEVELS = 5
GRID = IMAGE_SIZE // TOKEN_SIDE
# One object, two side by side, two one above the other, three with two of them above, or below.
LAYOUTS = 5
# Rows and columns of parts that the square of an object has. A token outside of it is no part.
PARTS = 6
# Number of classes of each kind: ink, background, pattern, the nearest object's colour and digit, the layout,
# its part, and the mean ink that its digit has there. The last one follows from digit and part. So it teaches
# what a digit looks like without the noise of single scans: where nothing else is known, the digit says
# little of the ink of a token.
NUM_CLASSES = (INK_LEVELS, len(COLOURS), len(PATTERNS), len(COLOURS), 10, LAYOUTS, PARTS**2 + 1, INK_LEVELS)

_COLOURS = list(COLOURS)
_CENTRES = (torch.arange(GRID, dtype=torch.float32) + 0.5) * TOKEN_SIDE


def token_classes(scenes: Sequence[Scene], coverage: Tensor) -> Tensor:
    """Classes of all tokens.

    Args:
        scenes: B scenes.
        coverage: share of each pixel that an object covers, [B, 1, 64, 64] in 0..1.

    Returns:
        int64 [B, 8, 16, 16]; the second dimension is that of ``NUM_CLASSES``.

    Example:
        >>> scene = Scene("single_object", (SceneObject(3, "red", 32.0, 32.0, 36.0),), "blue", "plain")
        >>> token_classes([scene], torch.zeros(1, 1, 64, 64))[0, :, 0, 0].tolist()
        [0, 2, 0, 0, 3, 0, 36, 0]
    """
    ink = (F.avg_pool2d(coverage, TOKEN_SIDE) * (INK_LEVELS - 1)).round().long()
    return torch.cat([ink, torch.stack([_described(scene) for scene in scenes])], dim=1)


def _described(scene: Scene) -> Tensor:
    """All kinds but the ink: int64 [7, 16, 16]."""
    squares = torch.tensor(
        [[item.row, item.column, item.size] for item in scene.objects], dtype=torch.float32
    )
    # Distances from the centres: down [n, 16, 1] and to the right [n, 1, 16].
    down, right = (_CENTRES - squares[:, [axis]] for axis in range(2))
    down, right = down[:, :, None], right[:, None]
    nearest = (down.square() + right.square()).argmin(0)
    colours = torch.tensor([_COLOURS.index(item.colour) for item in scene.objects], dtype=torch.int64)
    digits = torch.tensor([item.digit for item in scene.objects], dtype=torch.int64)
    background, pattern, layout = (
        torch.full((GRID, GRID), number, dtype=torch.int64)
        for number in (_COLOURS.index(scene.background), PATTERNS.index(scene.pattern), _layout(scene))
    )
    parts = _parts(down, right, squares[:, 2, None, None]).gather(0, nearest[None])[0]
    mean = _mean_ink()[digits[nearest], parts]
    return torch.stack([background, pattern, colours[nearest], digits[nearest], layout, parts, mean])


@lru_cache(maxsize=1)
def _mean_ink() -> Tensor:
    """Level of the mean ink of each digit's scans in each part, int64 [10, 37]; needs scikit-learn."""
    scans, labels = load_scans()
    means = torch.stack([scans[labels == digit].mean(0) for digit in range(10)])
    means = F.interpolate(means, (PARTS, PARTS), mode="area").flatten(1)
    levels = (means / means.amax(1, keepdim=True) * (INK_LEVELS - 1)).round().long()
    return F.pad(levels, (0, 1))


def _parts(down: Tensor, right: Tensor, sides: Tensor) -> Tensor:
    """Parts [n, 16, 16] of squares with these sides, by the distances from their centres."""
    row, column = (((distance / sides + 0.5) * PARTS).floor().long() for distance in (down, right))
    inside = (row >= 0) & (row < PARTS) & (column >= 0) & (column < PARTS)
    return torch.where(inside, row * PARTS + column, PARTS**2)


def _layout(scene: Scene) -> int:
    rows, columns = sorted(item.row for item in scene.objects), sorted(item.column for item in scene.objects)
    if len(rows) == 1:
        return 0
    if len(rows) == 2:
        return 1 if columns[1] - columns[0] > rows[1] - rows[0] else 2
    return 3 if rows[1] < IMAGE_SIZE / 2 else 4
