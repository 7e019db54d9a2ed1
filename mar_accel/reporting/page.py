"""The page: one HTML file that needs no server and no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import combinations
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
    WORST_IMAGES,
    cells_of,
    difference_records,
    failures,
    part_records,
    point_records,
    points_on_lines,
    step_quantities,
    step_records,
    strip_url,
    values_in,
)
from mar_accel.reporting.front import Record, names_in_plot, pareto_front, scale_of
from mar_accel.reporting.points import Point, Points
from mar_accel.sweeps.numbers import metric_of
from mar_accel.sweeps.swept_keys import shown_value

# Bytes of all images of a page, before their encoding as text, which adds a third.
IMAGE_BUDGET = 8_000_000
# Bytes of the worst images of all settings, as text in the page.
WORST_BUDGET = 4_000_000
_TILE, _MOST_IMAGES = 128, 10
# Above this number of values, colours cannot be told apart.
_COLORS = 7
_PART_TITLES = {TIME: "seconds per image", FLOPS: "TFLOPs per image"}


def page(points: Points, title: str) -> str:
    """The whole page as HTML.

    Args:
        points: what it shows.
        title: its heading.

    Example:
        >>> Path("report.html").write_text(page(read_points(["multirun/evaluate"]), "my sweep"))
    """
    import vl_convert

    assets = files("mar_accel.reporting") / "assets"
    parts = {
        "title": html.escape(title),
        "css": (assets / "page.css").read_text(),
        "data": _json(page_data(points)),
        # Its stub asks for an argument that the function does not need.
        "library": vl_convert.javascript_bundle().replace("</script", "<\\/script"),  # type: ignore[call-arg]
        "script": (assets / "page.js").read_text(),
    }
    text = (assets / "page.html").read_text()
    # The parts are put in one after the other between the pieces, so that none of them is searched again.
    pieces = [piece.partition("}}") for piece in text.split("{{")]
    return pieces[0][0] + "".join(parts[name] + rest for name, _, rest in pieces[1:])


def _json(data: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def page_data(points: Points) -> dict[str, Any]:
    """Everything that the script of the page reads."""
    keys, metrics = key_columns(points), metric_columns(points)
    rows = point_records(points, keys, metrics)
    across = axis_columns(metrics, COSTS)
    up = quality_columns(metrics)
    colors = [column for column in keys if 1 < _count(points, column) <= _COLORS]
    curve = curve_key(keys, rows)
    steps = step_records(points)
    return {
        "keys": [_key_json(points, column) for column in keys],
        "metrics": [_column_json(column) for column in metrics],
        "shown": [column.id for column in (*keys, *metrics) if column.shown],
        "points": [_point_json(point, row, metrics) for point, row in zip(points.points, rows, strict=True)],
        "axes": {
            "x": [column.id for column in across],
            "y": [column.id for column in up],
        },
        "colors": [column.id for column in sorted(colors, key=lambda column: "." in column.key)],
        "heat": [column.id for column in heat_keys(keys, rows)],
        "curve": None if curve is None else curve.id,
        "pareto": {f"{x.id} {y.id}": _pareto_json(rows, x, y) for x in across for y in up},
        "templates": _templates(),
        "steps": {number: [s for s in steps if s["id"] == number] for number in range(len(rows))},
        "hasSteps": bool(steps),
        "quantities": step_quantities(points),
        "parts": _parts_json(points),
        "images": _images(points),
        "differences": _differences_json(points, metrics),
        "failures": _failures_json(points),
        "summary": _summary(points, rows, metrics),
        "baseline": points.baseline_name,
        "notes": list(points.notes),
    }


def heat_keys(keys: list[Column], rows: Sequence[Record]) -> list[Column]:
    """The two keys that a heat map shows at first: those with the most cells, numbers before words."""
    swept = [column for column in keys if column.shown and len(values_in(rows, column)) > 1]
    pairs = [pair for pair in combinations(swept, 2) if cells_of(rows, *pair) > 1]
    if not pairs:
        return swept[:2]
    best = max(pairs, key=lambda pair: (sum(c.numeric for c in pair), cells_of(rows, *pair)))
    return sorted(best, key=lambda column: not column.numeric)


def curve_key(keys: list[Column], rows: Sequence[Record]) -> Column | None:
    """The key that a curve shows at first: with the most points on lines; None if no number was swept."""
    numeric = [column for column in keys if column.numeric and len(values_in(rows, column)) > 1]
    return max(numeric, key=lambda column: points_on_lines(rows, column), default=None)


def _count(points: Points, column: Column) -> int:
    if column.key in points.keys:
        return len(points.values_of(column.key))
    return len({point.counted_steps().get(column.key) for point in points.points} - {None})


def _column_json(column: Column) -> dict[str, Any]:
    return {
        "id": column.id,
        "key": column.key,
        "title": column.title,
        "titled": charts.titled(column),
        "better": column.better,
        "format": column.format,
        "numeric": column.numeric,
    }


def _key_json(points: Points, column: Column) -> dict[str, Any]:
    return _column_json(column) | {"values": _count(points, column)}


def _point_json(point: Point, row: dict[str, Any], metrics: list[Column]) -> dict[str, Any]:
    texts = {
        column.id: point.numbers[column.key].text(metric_of(column.key))
        for column in metrics
        if column.key in point.numbers
    }
    words = [
        point.name,
        point.label,
        *(f"{key}={shown_value(value)}" for key, value in point.values.items()),
    ]
    return {
        "id": row["id"],
        "name": point.name,
        "label": point.label,
        "row": row,
        "text": texts,
        "search": " ".join(words).lower(),
        "command": point.command,
        "config": point.config,
        "seeds": list(point.seeds),
        "folder": str(point.folder) if point.folder else "",
    }


def _pareto_json(rows: list[dict[str, Any]], x: Column, y: Column) -> dict[str, Any] | None:
    """The scales of a pair of axes, and the places of the names; None if no point has both numbers."""
    known = [row for row in rows if row.get(x.id) is not None and row.get(y.id) is not None]
    if not known:
        return None
    look, scales = charts.PAGE, [scale_of(known, column) for column in (x, y)]
    return {
        "scales": [[*scale.domain, "log" if scale.log else "linear"] for scale in scales],
        "names": names_in_plot(known, x, y, (look.width, look.height), look.font),
    }


class _OpenScale:
    """A scale whose ends and kind the page puts in."""

    log = False

    def __init__(self, axis: str):
        self.domain = (f"@{axis}0", f"@{axis}1")


def _open_kinds(spec: Any) -> Any:
    """The specification with a placeholder for the kind of each open scale, which Altair would refuse."""
    if isinstance(spec, list):
        return [_open_kinds(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    ends = spec.get("domain")
    open_kind = {"type": f"{ends[0][:2]}k"} if isinstance(ends, list) and str(ends[0]).startswith("@") else {}
    return {key: _open_kinds(value) for key, value in spec.items()} | open_kind


def _templates() -> dict[str, Any]:
    """Charts whose columns the reader chooses: "@x" and so on stand for them."""
    x, y = (Column(f"@{name}", "", f"@{name}t") for name in "xy")
    heat, curve = charts.Look(440, 330, 12), charts.PAGE
    axes = [Column(f"@{name}", "", f"@{name}t", format=f"@{name}f") for name in "xy"]
    group = Column("@c", "", "@ct", numeric=False)
    scales: Any = (_OpenScale("x"), _OpenScale("y"))

    def pareto(color: Column | None) -> Any:
        return _open_kinds(charts.styled(charts.pareto(axes[0], axes[1], scales, color, curve), curve))

    up = Column("@y", "", "@yt", format="@yf")

    def map_of(better: int) -> dict[str, Any]:
        # The title of the number already says what is better.
        number = Column("@z", "", "@zt", better, "@zf")
        chart = charts.heat_map(x, y, number, heat).properties(title="@zt")
        return charts.styled(chart, heat)

    return {
        "pareto": pareto(None),
        "pareto_colored": pareto(group),
        "heat_up": map_of(1),
        "heat_down": map_of(-1),
        "curve": charts.styled(charts.curves_over_key(x, up, "@g", False, curve), curve),
        "curve_log": charts.styled(charts.curves_over_key(x, up, "@g", True, curve), curve),
        "steps": charts.styled(charts.curves_over_steps("@q", "@qt", curve), curve),
    }


def _parts_json(points: Points) -> dict[str, Any]:
    found = {}
    for kind, title in _PART_TITLES.items():
        shown = part_records(points, kind)
        if shown:
            chart = charts.breakdown(list(dict.fromkeys(r["part"] for r in shown)), title, charts.PAGE)
            found[kind] = {
                "title": title,
                "records": shown,
                "spec": charts.styled(chart, charts.PAGE),
            }
    return found


def _differences_json(points: Points, metrics: list[Column]) -> dict[str, Any]:
    found = {}
    # The FID tells most settings apart; so it is shown first.
    for column in sorted(difference_columns(metrics), key=lambda column: column.key != "fid_difference"):
        chart = charts.differences(charts.titled(column), column.format, charts.PAGE)
        found[column.key] = {
            "title": column.title,
            "records": difference_records(points, metric_of(column.key)),
            "spec": charts.styled(chart, charts.PAGE),
        }
    return found


def _failures_json(points: Points) -> dict[int, Any]:
    """Where each point fails, with as many images as the budget of the page allows."""
    paired = [
        (number, point.pair, points.points[point.compared_with].label)
        for number, point in enumerate(points.points)
        if point.pair is not None and point.compared_with is not None
    ]
    count = WORST_IMAGES
    if paired:
        first = failures(paired[0][1], 1)
        size = sum(len(own["ours"]) + len(own["theirs"]) for own in first["worst"])
        count = max(1, min(count, int(WORST_BUDGET / len(paired) / max(1, size))))
    return {number: {"base": base, **failures(pair, count)} for number, pair, base in paired}


def _images(points: Points) -> dict[int, str]:
    """The strip of each point that has images, as many images as the budget of the page allows."""
    shown = [(number, point) for number, point in enumerate(points.points) if point.has_images]
    if not shown:
        return {}
    count = _MOST_IMAGES
    first = strip_url(shown[0][1], count, _TILE) or ""
    share = IMAGE_BUDGET * 4 / 3 / len(shown) / max(1, len(first))
    count = max(1, min(count, int(count * share)))
    strips = {number: strip_url(point, count, _TILE) for number, point in shown}
    return {number: url for number, url in strips.items() if url is not None}


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _summary(points: Points, rows: list[dict[str, Any]], metrics: list[Column]) -> list[list[str]]:
    """What a reader wants to know first: title, text and small print of each card."""
    cards = []
    bases = [point.label for point in points.points if point.baseline]
    if bases:
        cards.append(["Compared with", points.baseline_name, _listed(bases) if len(bases) > 1 else ""])
    counts = sorted({int(n.value) for p in points.points if (n := p.numbers.get("num_images")) is not None})
    seeds = sorted({seed for point in points.points for seed in point.seeds})
    if counts:
        small = f"seeds: {', '.join(map(str, seeds))}" if seeds else ""
        cards.append(
            [
                "Images per setting",
                "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
                small,
            ]
        )
    across, up = axis_columns(metrics, COSTS), quality_columns(metrics)
    if across and up:
        front = pareto_front(rows, across[0], up[0])
        names = [row["label"] for row in front]
        cards.append([f"Not beaten in {across[0].title} and {up[0].title}", _listed(names), ""])
    for column in (*up[:1], *across[:1]):
        known = [(row[column.id], row["label"]) for row in rows if row.get(column.id) is not None]
        if column.better and known:
            label = (max if column.better > 0 else min)(known)[1]
            point = points.points[next(row["id"] for row in rows if row["label"] == label)]
            text = point.numbers[column.key].text(metric_of(column.key))
            cards.append([f"Best {column.title}", text, label])
    return cards
