"""The data of the charts besides the points: AR steps, components, images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from mar_accel.metrics.catalogue import Metric
from mar_accel.reporting.axes import Column, chart_value, records
from mar_accel.reporting.front import Record
from mar_accel.reporting.points import Point, Points, first_images, short_value
from mar_accel.sweeps.pair_files import difference_text, worst_images
from mar_accel.sweeps.pairs import PairedRow
from mar_accel.sweeps.swept_keys import shown_value

# The curves over AR steps: name in ar_steps.csv, title.
STEP_QUANTITIES = {
    "tokens": "tokens decoded",
    "diffusion_steps": "diffusion steps T",
    "guidance_scale": "guidance scale",
    "seconds": "seconds per image",
    "backbone_seconds": "seconds per image, backbone",
    "head_seconds": "seconds per image, head",
    "tflops": "TFLOPs per image",
    "cache_hits": "share of FLOPs saved by the cache",
}
TIME, FLOPS = "time", "flops"
# Pairs of images of each setting that show where it fails, and classes.
WORST_IMAGES, WORST_TILE = 10, 96
_FLOPS = {
    "encoder": "tflops_encoder",
    "decoder": "tflops_decoder",
    "head": "tflops_head",
}


def step_records(points: Points) -> list[dict[str, Any]]:
    """One record per point and AR step."""
    return [
        {
            "id": number,
            "label": point.label,
            "step": int(step.get("index", place)),
            **_quantities(step),
        }
        for number, point in enumerate(points.points)
        for place, step in enumerate(point.steps)
    ]


def _quantities(step: Any) -> dict[str, float]:
    return {key: float(f"{value:.5g}") for key, value in step.items() if key != "index"}


def step_quantities(points: Points) -> dict[str, str]:
    """Titles of the quantities that the AR steps of any point have."""
    there = {key for point in points.points for step in point.steps for key in step} - {"index"}
    known = {key: title for key, title in STEP_QUANTITIES.items() if key in there}
    return known | {key: key.replace("_", " ") for key in sorted(there - set(known))}


def part_records(points: Points, kind: str) -> list[dict[str, Any]]:
    """What each component of each point takes: seconds ("time") or TFLOPs ("flops") per image.

    Where a point has shares of the time and no seconds, it is left out.
    """
    return [
        {
            "id": number,
            "label": point.label,
            "place": number,
            "part": part,
            "order": order,
            "value": value,
        }
        for number, point in enumerate(points.points)
        for order, (part, value) in enumerate(_parts(point, kind).items())
    ]


def _parts(point: Point, kind: str) -> dict[str, float]:
    if kind == FLOPS:
        numbers = {part: point.numbers.get(key) for part, key in _FLOPS.items()}
        return {part: number.value for part, number in numbers.items() if number is not None}
    latency = point.numbers.get("latency_s_per_image")
    return (
        {} if latency is None else {part: share * latency.value for part, share in point.time_shares.items()}
    )


def difference_records(points: Points, metric: Metric) -> list[dict[str, Any]]:
    """The difference of each point to the baseline with its interval, in the order of the points."""
    found = []
    for number, point in enumerate(points.points):
        own = point.numbers.get(metric.key)
        if own is not None:
            value, low, high = chart_value(own, metric)
            found.append({"id": number, "label": point.label, "place": number})
            found[-1] |= {"value": value, "low": value if low is None else low}
            found[-1] |= {"high": value if high is None else high}
    return found


def failures(pair: PairedRow, count: int) -> dict[str, Any]:
    """Where a point fails: its worst images beside those of its baseline, and its classes.

    Returns:
        "worst": records of :func:`mar_accel.sweeps.pair_files.worst_images` with the URLs "theirs" and
        "ours". "classes": label, number of images and the differences as text, worst first.
    """
    worst, places = worst_images(pair, count), pair.worst[:count]
    for name, images in (("theirs", pair.theirs), ("ours", pair.ours)):
        for record, image in zip(worst, images.images(places), strict=True):
            picture = _tile(image, WORST_TILE)
            record[name] = _url(picture, exact=min(image.shape[-2:]) <= WORST_TILE)
    classes = [
        {
            "label": own.label,
            "count": own.count,
            **{name: difference_text(name, difference) for name, difference in own.differences.items()},
        }
        for own in pair.classes
    ]
    return {"worst": worst, "classes": classes}


def other_values(point: Point, without: str) -> str:
    """The values of a point without one key: the name of its line over this key."""
    parts = [short_value(key, value) for key, value in point.values.items() if key != without]
    return " ".join(parts) or "all"


def point_records(points: Points, keys: Sequence[Column], metrics: Sequence[Column]) -> list[dict[str, Any]]:
    """The record of each point, with the name of its line over each numeric key in the columns g_ID."""
    numeric = [column for column in keys if column.numeric]
    return [
        row | {f"g_{column.id}": _series(point, points, column) for column in numeric}
        for row, point in zip(records(points, keys, metrics), points.points, strict=True)
    ]


def _series(point: Point, points: Points, column: Column) -> str:
    if not column.id.startswith("s"):
        return other_values(point, column.key)
    # The number of steps follows from several keys, so a line is what the groups say.
    groups = [shown_value(point.values[key]) for key in points.keys if "." not in key and key in point.values]
    return " ".join(groups) or "all"


def values_in(rows: Sequence[Record], column: Column) -> set[Any]:
    """The different values of a column."""
    return {row[column.id] for row in rows if row.get(column.id) is not None}


def cells_of(rows: Sequence[Record], x: Column, y: Column) -> int:
    """How many cells of a heat map have a value; 0 unless both keys have several values in them."""
    there = [row for row in rows if row.get(x.id) is not None and row.get(y.id) is not None]
    cells = {(row[x.id], row[y.id]) for row in there}
    return len(cells) if min(len(values_in(there, x)), len(values_in(there, y))) > 1 else 0


def points_on_lines(rows: Sequence[Record], column: Column) -> int:
    """How many points of a curve over a key are joined to others that differ in this key alone."""
    lines: dict[Any, set[Any]] = {}
    for row in rows:
        if row.get(column.id) is not None:
            lines.setdefault(row.get(f"g_{column.id}"), set()).add(row[column.id])
    return sum(len(values) for values in lines.values() if len(values) > 1)


def strip_url(point: Point, count: int, tile: int) -> str | None:
    """The first images of a point side by side, as a URL that holds them; None if there are none.

    Small images are enlarged by a whole factor and kept exactly (PNG). Larger ones are made smaller (JPEG).
    """
    images = first_images(point, count)
    if not images:
        return None
    tiles = [_tile(image, tile) for image in images]
    strip = Image.new("RGB", (sum(t.width for t in tiles), tiles[0].height), "white")
    left = 0
    for picture in tiles:
        strip.paste(picture, (left, 0))
        left += picture.width
    return _url(strip, exact=min(images[0].shape[-2:]) <= tile)


def image_records(points: Sequence[Point], count: int, tile: int) -> list[dict[str, Any]]:
    """One record per point and sample, with its picture as a URL."""
    return [
        {
            "label": point.label,
            "column": column,
            "url": _url(_tile(image, tile), exact=True),
        }
        for point in points
        for column, image in enumerate(first_images(point, count))
    ]


def _tile(image: Any, size: int) -> Image.Image:
    """An image uint8 [1 or 3, H, W] as RGB; small ones stay as they are, and the viewer enlarges them."""
    picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    if min(picture.size) <= size:
        return picture
    factor = size / min(picture.size)
    return picture.resize(
        (round(picture.width * factor), round(picture.height * factor)),
        Image.Resampling.LANCZOS,
    )


def _url(picture: Image.Image, exact: bool) -> str:
    buffer = io.BytesIO()
    if exact:
        grey = picture.convert("L")
        # Digits have one channel; three would be three times as large.
        is_grey = picture.tobytes() == grey.convert("RGB").tobytes()
        (grey if is_grey else picture).save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="JPEG", quality=85)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
