"""Places for the names of points in a scatter plot: no name covers a point or another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

Box = tuple[float, float, float, float]
Side = Literal["left", "right"]

# Rings around a point in which a name may stand, as multiples of the first gap.
_RINGS = (1.0, 2.2, 3.0)
_HEIGHTS = (0.0, 0.9, -0.9, 1.8, -1.8)


@dataclass(frozen=True)
class Place:
    """Where a name stands.

    Attributes:
        x, y: the end of the name that is nearer to its point, at half its height, in pixels.
        side: the side of the point on which the name stands.
        far: whether a line should join the name to its point.
    """

    x: float
    y: float
    side: Side
    far: bool


def place_labels(
    points: Sequence[tuple[float, float]],
    widths: Sequence[float],
    height: float,
    area: Box,
    order: Sequence[int],
    gap: float = 5.0,
    obstacles: Sequence[Box] = (),
) -> list[Place | None]:
    """Find a place for each name, the most important names first.

    Args:
        points: positions of the points in pixels.
        widths: widths of their names in pixels.
        height: height of a line of text in pixels.
        area: left, lower, right and upper limit of where names may stand.
        order: indices of the points, most important first; others get no name.
        gap: pixels between a point and its name; also the size of a point that names keep free.
        obstacles: further boxes that names keep free.

    Returns:
        One place per point; None where no free place was found.

    Example:
        >>> place_labels([(50, 50)], [30], 10, (0, 0, 100, 100), [0])
        [Place(x=55.0, y=50.0, side='right', far=False)]
    """
    marks = [(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in points]
    taken: list[Box] = [*marks, *obstacles]
    places: list[Place | None] = [None] * len(points)
    for index in order:
        others = [box for number, box in enumerate(taken) if number != index]
        found = _first_free(points[index], widths[index], height, area, gap, others)
        if found is not None:
            places[index] = found
            taken.append(_box(found, widths[index], height))
    return places


def _first_free(
    point: tuple[float, float], width: float, height: float, area: Box, gap: float, taken: Sequence[Box]
) -> Place | None:
    inwards: tuple[Side, Side] = (
        ("right", "left") if point[0] <= (area[0] + area[2]) / 2 else ("left", "right")
    )
    for ring, rise, side in product(_RINGS, _HEIGHTS, inwards):
        sign = 1 if side == "right" else -1
        place = Place(point[0] + sign * gap * ring, point[1] + rise * height * ring, side, ring > _RINGS[0])
        box = _box(place, width, height)
        inside = area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]
        if inside and not any(overlaps(box, other) for other in taken):
            return place
    return None


def _box(place: Place, width: float, height: float) -> Box:
    left = place.x if place.side == "right" else place.x - width
    return left, place.y - height / 2, left + width, place.y + height / 2


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes (left, lower, right, upper) share an area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
