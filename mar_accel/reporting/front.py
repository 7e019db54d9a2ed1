"""The Pareto front, and where the names of its points stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mar_accel.reporting.axes import Column
from mar_accel.utils.figures import picture_font
from mar_accel.utils.label_places import Box, place_labels

Record = Mapping[str, Any]

_WIDE = 12.0


@dataclass(frozen=True)
class Scale:
    """One axis of a chart.

    Attributes:
        low, high: its ends.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    log: bool

    @property
    def domain(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def position(self, value: float) -> float:
        """Position of a value, 0 at the lower end and 1 at the upper one."""
        low, high, value = (self._linear(x) for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def value(self, position: float) -> float:
        """The value at a position."""
        low, high = self._linear(self.low), self._linear(self.high)
        linear = low + position * (high - low)
        return 10**linear if self.log else linear

    def _linear(self, value: float) -> float:
        return math.log10(value) if self.log else value


def scale_of(records: Sequence[Record], column: Column) -> Scale:
    """A scale that holds all values and most of their error bars; logarithmic if values differ by factors."""
    values = [record[column.id] for record in records if record.get(column.id) is not None]
    low, high = min(values), max(values)
    log = low > 0 and high / low > _WIDE
    if not log:
        bars = [record.get(f"{column.id}_{end}") for record in records for end in ("lo", "hi")]
        ends = [bar for bar in bars if bar is not None]
        # An error bar far longer than the differences would hide them.
        reach = 1.5 * (high - low) if high > low else abs(high) or 1.0
        low = max(min([low, *ends]), low - reach)
        high = min(max([high, *ends]), high + reach)
    scale = (
        Scale(low, high, log)
        if high > low
        else Scale(low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2, False)
    )
    margin = 0.06
    return Scale(scale.value(-margin), scale.value(1 + margin), scale.log)


def is_better(one: Record, other: Record, columns: Sequence[Column]) -> bool:
    """Whether a point is at least as good in all columns, and better in one."""
    gains = [column.better * (one[column.id] - other[column.id]) for column in columns]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def pareto_front(records: Sequence[Record], x: Column, y: Column) -> list[Record]:
    """The points that no other point beats in both columns, from left to right.

    Example:
        >>> cost, quality = Column("a", "", "", better=-1), Column("b", "", "", better=1)
        >>> pareto_front([{"a": 1, "b": 1}, {"a": 2, "b": 3}, {"a": 3, "b": 2}], cost, quality)
        [{'a': 1, 'b': 1}, {'a': 2, 'b': 3}]
    """
    known = [r for r in records if r.get(x.id) is not None and r.get(y.id) is not None]
    if not (x.better and y.better):
        return []
    front = [r for r in known if not any(is_better(other, r, (x, y)) for other in known)]
    return sorted(front, key=lambda record: record[x.id])


def names_in_plot(
    records: Sequence[Record],
    x: Column,
    y: Column,
    size: tuple[float, float],
    font: int,
) -> list[dict[str, Any]]:
    """Places of the names, in the units of the axes; a name without a free place is left out.

    Args:
        records: the points.
        x, y: the columns of the axes.
        size: width and height of the plot in pixels.
        font: size of the names in pixels.

    Returns:
        Records with the id and the name of the point, its place (x, y) and that of the name (lx, ly). They
        also have the side of the point on which the name stands, and whether a line joins both.
    """
    known = [r for r in records if r.get(x.id) is not None and r.get(y.id) is not None]
    if not known:
        return []
    horizontal, vertical = scale_of(known, x), scale_of(known, y)
    width, height = size
    points = [
        (
            horizontal.position(record[x.id]) * width,
            vertical.position(record[y.id]) * height,
        )
        for record in known
    ]
    front = {record["id"] for record in pareto_front(known, x, y)}
    order = sorted(
        range(len(known)),
        key=lambda i: (not known[i]["baseline"], known[i]["id"] not in front),
    )
    widths = [picture_font(font).getlength(record["label"]) for record in known]
    area: Box = (0, 0, width, height)
    places = place_labels(points, widths, font * 1.15, area, order, gap=0.75 * font)
    return [
        {
            "id": record["id"],
            "label": record["label"],
            "x": record[x.id],
            "y": record[y.id],
            "lx": horizontal.value(place.x / width),
            "ly": vertical.value(place.y / height),
            "side": place.side,
            "far": place.far,
        }
        for record, place in zip(known, places, strict=True)
        if place is not None
    ]
