"""Names of points do not cover each other; figures are written as PNG and SVG; text keeps its spaces."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mar_accel.evaluation.pictures import labelled_strips
from mar_accel.utils.figures import COLUMN, picture_font, remove_figure, save_figure
from mar_accel.utils.label_places import Box, Place, overlaps, place_labels

AREA = (0.0, 0.0, 300.0, 200.0)


def _box(place: Place, width: float, height: float) -> Box:
    left = place.x if place.side == "right" else place.x - width
    return left, place.y - height / 2, left + width, place.y + height / 2


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=25),
    st.floats(5, 80),
)
def test_names_stay_inside_and_apart(points: list[tuple[float, float]], width: float) -> None:
    places = place_labels(points, [width] * len(points), 10, AREA, range(len(points)))
    boxes = [_box(place, width, 10) for place in places if place is not None]
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 300 and box[3] <= 200 for box in boxes)
    assert not any(overlaps(one, other) for one, other in itertools.combinations(boxes, 2))


def test_the_most_important_name_gets_the_place() -> None:
    close = [(50.0, 50.0), (50.0, 50.0)]
    area = (0.0, 40.0, 90.0, 60.0)
    first, second = place_labels(close, [40, 40], 10, area, [1, 0])
    assert second is not None and not second.far
    assert first is None or first.side != second.side


def test_a_point_between_others_is_not_named_across_them() -> None:
    row = [(x, 100.0) for x in range(0, 300, 10)]
    places = place_labels(row, [60.0] * len(row), 10, AREA, range(len(row)))
    marks = [(x - 2.5, 97.5, x + 2.5, 102.5) for x, _ in row]
    for number, place in enumerate(places):
        if place is not None:
            others = [mark for index, mark in enumerate(marks) if index != number]
            assert not any(overlaps(_box(place, 60, 10), mark) for mark in others)


def test_a_figure_is_png_and_svg_and_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def write(name: str) -> list[Path]:
        return save_figure(tmp_path / name, COLUMN, 2, lambda figure: figure.subplots().plot([1, 2, 3]))

    one, other = write("one.png"), write("other.png")
    assert [file.name for file in one] == ["one.png", "one.svg"]
    assert one[0].read_bytes()[:4] == b"\x89PNG" and b"<svg" in one[1].read_bytes()
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    remove_figure(tmp_path / "one.png")
    assert {path.name for path in tmp_path.iterdir()} == {"other.png", "other.svg"}


def test_names_beside_pictures_keep_their_spaces_and_have_room() -> None:
    font = picture_font(16)
    assert font.getlength("a b") > font.getlength("ab") + 2
    name = "gtr_19 + lazymar_late, β = 10 %"
    sheet = labelled_strips([(f"{name}\n3.14x", torch.zeros(3, 1, 16, 16, dtype=torch.uint8))])
    # The name ends before the first image begins: a white column lies between them.
    assert sheet.width > font.getlength(name) + 3 * 96
    columns = [sheet.crop((x, 0, x + 1, sheet.height)).getextrema() for x in range(sheet.width)]
    first_image = next(
        x for x, extrema in enumerate(columns) if x > font.getlength(name) and extrema[0][0] == 0
    )
    assert columns[first_image - 3] == ((255, 255),) * 3
