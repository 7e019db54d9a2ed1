"""The figures of a report as PNG and SVG, in the sizes and fonts of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mar_accel.reporting import charts
from mar_accel.reporting.axes import (
    COSTS,
    Column,
    axis_columns,
    difference_columns,
    key_columns,
    metric_columns,
    quality_columns,
)
from mar_accel.reporting.chart_data import (
    FLOPS,
    TIME,
    cells_of,
    difference_records,
    image_records,
    part_records,
    point_records,
    points_on_lines,
    step_quantities,
    step_records,
)
from mar_accel.reporting.front import names_in_plot, pareto_front, scale_of
from mar_accel.reporting.points import Point, Points
from mar_accel.sweeps.numbers import metric_of
from mar_accel.utils.whole_files import written_whole

# A figure with more would not fit a page; the page of the report has them all.
_MOST_LINES, _MOST_STRIPS, _STRIP_IMAGES = 7, 16, 10
_MOST_QUALITIES, _MOST_KEYS, _MOST_TICKS = 3, 4, 12
_DPI = 220

Datasets = Mapping[str, Sequence[Mapping[str, Any]]]


class Figures:
    """Draws the figures of some points.

    Example:
        >>> Figures(read_points(["multirun/evaluate"])).write(Path("figures"))
    """

    def __init__(self, points: Points):
        self.points = points
        self.keys, self.metrics = key_columns(points), metric_columns(points)
        self.rows = point_records(points, self.keys, self.metrics)
        self.costs = axis_columns(self.metrics, COSTS)
        self.qualities = [c for c in quality_columns(self.metrics) if c.better][:_MOST_QUALITIES]

    def write(self, folder: Path) -> list[Path]:
        """Write every figure that the points have data for; returns the PNG files."""
        folder.mkdir(parents=True, exist_ok=True)
        return [write_chart(folder / f"{name}.png", spec, data) for name, spec, data in self._all()]

    def _all(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        yield from self._paretos()
        yield from self._heat_maps()
        yield from self._curves()
        yield from self._steps()
        yield from self._differences()
        yield from self._parts()
        yield from self._images()

    def _paretos(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        look = charts.PRINT
        for x in self.costs[:2]:
            for y in self.qualities:
                known = [row for row in self.rows if row.get(x.id) is not None and row.get(y.id) is not None]
                if not known:
                    continue
                names = names_in_plot(known, x, y, (look.width, look.height), look.font)
                chart = charts.pareto(x, y, (scale_of(known, x), scale_of(known, y)), self._color(), look)
                data: Datasets = {
                    "points": known,
                    "front": pareto_front(known, x, y),
                    "names": names,
                }
                yield f"pareto_{y.key}_{x.key}", charts.styled(chart, look), data

    def _color(self) -> Column | None:
        """The group whose members the colours tell apart, if one was swept."""
        groups = [
            column for column in self.keys if column.shown and not column.numeric and "." not in column.key
        ]
        few = [c for c in groups if 1 < len(self.points.values_of(c.key)) <= len(charts.PALETTE)]
        return few[0] if few else None

    def _swept(self) -> list[Column]:
        return [c for c in self.keys if c.shown and len(self.points.values_of(c.key)) > 1]

    def _heat_maps(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        look = charts.Look(200, 170, charts.PRINT.font)
        keys = sorted(self._swept(), key=lambda column: not column.numeric)[:_MOST_KEYS]
        for x, y in combinations(keys, 2):
            if cells_of(self.rows, x, y) < 2:
                continue
            for number in self.qualities:
                shown = [number, *self.costs[:1]]
                if any(all(row.get(c.id) is None for row in self.rows) for c in shown):
                    continue
                chart = charts.side_by_side([charts.heat_map(x, y, column, look) for column in shown])
                name = f"heat_{_file_name(x.key)}_{_file_name(y.key)}_{number.key}"
                yield name, charts.styled(chart, look), {"points": self.rows}

    def _curves(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        look = charts.PRINT
        for x in self.keys:
            if not x.numeric:
                continue
            values = {row[x.id] for row in self.rows if row.get(x.id) is not None}
            lines = {row[f"g_{x.id}"] for row in self.rows if row.get(x.id) is not None}
            if points_on_lines(self.rows, x) < 2 or len(lines) > _MOST_LINES:
                continue
            log = min(values) > 0 and max(values) / min(values) >= 8
            for y in self.qualities:
                ticks = sorted(values) if len(values) <= _MOST_TICKS else ()
                chart = charts.curves_over_key(x, y, f"g_{x.id}", log, look, ticks)
                yield (
                    f"curve_{_file_name(x.key)}_{y.key}",
                    charts.styled(chart, look),
                    {"points": self.rows},
                )

    def _steps(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        look = charts.PRINT
        ids = [number for number, point in enumerate(self.points.points) if point.steps][:_MOST_LINES]
        steps = [step for step in step_records(self.points) if step["id"] in ids]
        for quantity, title in step_quantities(self.points).items():
            if len({step.get(quantity) for step in steps}) > 1:
                chart = charts.curves_over_steps(quantity, title, look)
                yield (
                    f"ar_steps_{quantity}",
                    charts.styled(chart, look),
                    {"steps": steps},
                )

    def _differences(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        for column in difference_columns(self.metrics):
            found = difference_records(self.points, metric_of(column.key))[: 2 * _MOST_STRIPS]
            if found:
                title = charts.titled(column)
                chart = charts.differences(title, column.format, charts.PRINT)
                yield column.key, charts.styled(chart, charts.PRINT), {"differences": found}

    def _parts(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        for kind, title in ((TIME, "seconds per image"), (FLOPS, "TFLOPs per image")):
            parts = [part for part in part_records(self.points, kind) if part["id"] < 2 * _MOST_STRIPS]
            if parts:
                names = list(dict.fromkeys(part["part"] for part in parts))
                chart = charts.breakdown(names, title, charts.PRINT)
                yield (
                    f"{kind}_breakdown",
                    charts.styled(chart, charts.PRINT),
                    {"parts": parts},
                )

    def _images(self) -> Iterator[tuple[str, dict[str, Any], Datasets]]:
        shown: list[Point] = [point for point in self.points.points if point.has_images][:_MOST_STRIPS]
        images = image_records(shown, _STRIP_IMAGES, 128)
        if images:
            columns = max(image["column"] for image in images) + 1
            chart = charts.image_grid(columns, [point.label for point in shown], 40, charts.PRINT)
            yield "samples", charts.styled(chart, charts.PRINT), {"images": images}


def write_chart(path: Path, spec: Mapping[str, Any], data: Datasets) -> Path:
    """Write a chart as PNG and, beside it, as SVG; returns the PNG file."""
    import vl_convert

    whole = {**spec, "datasets": data, "background": "white", "padding": 4}
    with written_whole(path) as temporary:
        temporary.write_bytes(vl_convert.vegalite_to_png(whole, ppi=_DPI))
    with written_whole(path.with_suffix(".svg")) as temporary:
        temporary.write_text(vl_convert.vegalite_to_svg(whole), encoding="utf-8")
    return path


def _file_name(key: str) -> str:
    """The last parts of a key, without signs that file names should not have."""
    return "".join(sign if sign.isalnum() else "_" for sign in key.rsplit(".", 1)[-1])
