"""Composed scenes: what is drawn is what the caption says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from mar_accel.data.captions import (
    DIGITS,
    MAX_LENGTH,
    PLURALS,
    VOCABULARY,
    caption,
    cut,
    nearest_word,
    tokenize,
    unknown_words,
    word_classes,
)
from mar_accel.data.scene_classes import INK_LEVELS, PARTS, token_classes
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scene_training import SceneBatches
from mar_accel.data.scenes import (
    CATEGORIES,
    COLOURS,
    IMAGE_SIZE,
    PATTERNS,
    PLAIN,
    Scene,
    SceneObject,
    draw_scene,
)
from mar_accel.errors import DataError

NUM_SCENES = 2000


@pytest.fixture(scope="module")
def captioned() -> list[tuple[Scene, str]]:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(NUM_SCENES)]
    return [(scene, caption(scene, rng)) for scene in scenes]


def test_scenes_are_those_of_their_seed() -> None:
    images, ids, *_ = next(iter(SceneBatches(4, [1, 0])))
    again, other = next(iter(SceneBatches(4, [1, 0]))), next(iter(SceneBatches(4, [1, 2])))
    assert torch.equal(images, again[0]) and torch.equal(ids, again[1])
    assert not torch.equal(images, other[0])
    assert images.shape == (4, 3, IMAGE_SIZE, IMAGE_SIZE) and ids.shape == (4, MAX_LENGTH)
    assert float(images.min()) >= -1 and float(images.max()) <= 1


def test_classes_of_tokens_say_what_is_there() -> None:
    pair = (SceneObject(3, "red", 16.0, 32.0, 26.0), SceneObject(7, "white", 48.0, 32.0, 26.0))
    scene = Scene("color_attr", pair, "blue", "stripes")
    image, coverage = SceneDrawer().with_coverage([scene], np.random.default_rng(0))
    ink, background, pattern, colour, digit, layout, part, mean = token_classes([scene], coverage)[0]
    assert [list(COLOURS).index("blue"), PATTERNS.index("stripes")] == [background.unique(), pattern.unique()]
    assert layout.unique() == 1
    # The square of an object: 26 pixels around its centre.
    assert part[8, [4, 12, 0]].tolist() == [21, 21, PARTS**2] and part[0].unique() == PARTS**2
    # A three has no ink in the middle of its left side; a seven has less at the bottom right than at the top.
    assert mean[8, 1] == 0 and mean[5, 11] > mean[10, 14] and mean[0].unique() == 0
    assert set(range(PARTS**2)) == set(part.flatten().tolist()) - {PARTS**2}
    for columns, item in zip((slice(0, 8), slice(8, 16)), pair, strict=True):
        assert colour[:, columns].unique() == list(COLOURS).index(item.colour)
        assert digit[:, columns].unique() == item.digit
        # A token that is full of ink has the colour of its object.
        rows, places = torch.nonzero(ink[:, columns] == INK_LEVELS - 1, as_tuple=True)
        assert len(rows) > 0
        for row, column in zip(rows.tolist(), (places + columns.start).tolist(), strict=True):
            pixel = image[0, :, 4 * row + 2, 4 * column + 2]
            torch.testing.assert_close(pixel, torch.tensor(COLOURS[item.colour]), atol=0.3, rtol=0)
    assert (ink[:3] == 0).all() and (ink == 0).float().mean() > 0.5


def test_all_categories_and_patterns_are_drawn(captioned: list[tuple[Scene, str]]) -> None:
    assert {scene.category for scene, _ in captioned} == set(CATEGORIES)
    assert {scene.pattern for scene, _ in captioned} == set(PATTERNS)
    assert {scene.background for scene, _ in captioned} == set(COLOURS)


@pytest.mark.parametrize(
    ("text", "first", "second", "background"),
    [
        ("a red three above an eight on blue", ["red", "three"], ["eight"], ["blue"]),
        ("there are two yellow fives", ["yellow", "fives"], [], []),
        ("two fives on a white background", ["fives"], [], ["white"]),
    ],
)
def test_words_belong_to_objects(
    text: str, first: list[str], second: list[str], background: list[str]
) -> None:
    words, classes = text.split(), word_classes(tokenize([text]))[0].tolist()
    for number, expected in enumerate((first, second, background)):
        named = zip(words, classes, strict=False)
        assert [word for word, of in named if of == number] == expected


def test_captions_may_name_the_left_or_upper_object_first() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(300)]
    words = set(" ".join(caption(scene, rng, 1.0) for scene in scenes).split())
    assert {"left", "above"} <= words and not {"right", "below", "under", "beneath"} & words
    pairs = [scene for scene in scenes if len({item.digit for item in scene.objects}) == 2]
    for scene in pairs:
        named = [word for word in caption(scene, rng, 1.0).split() if word in DIGITS]
        first, second = sorted(scene.objects, key=lambda item: item.column + item.row)
        assert named == [DIGITS[first.digit], DIGITS[second.digit]]


def test_a_pair_without_places_is_named_in_reading_order(captioned: list[tuple[Scene, str]]) -> None:
    """Captions with places name either object first."""
    in_order = dict[bool, set[bool]]({True: set(), False: set()})
    for scene, text in captioned:
        if len({item.digit for item in scene.objects}) == 2:
            named = [word for word in text.split() if word in DIGITS]
            first, second = sorted(scene.objects, key=lambda item: item.column + item.row)
            in_order[bool(scene.relation)].add(named == [DIGITS[first.digit], DIGITS[second.digit]])
    assert in_order == {True: {True, False}, False: {True}}


def test_objects_differ_from_the_background_and_lie_apart(captioned: list[tuple[Scene, str]]) -> None:
    for scene, _ in captioned:
        assert 1 <= len(scene.objects) <= 3
        assert scene.background not in {item.colour for item in scene.objects}
        for index, item in enumerate(scene.objects):
            for other in scene.objects[:index]:
                distance = max(abs(item.column - other.column), abs(item.row - other.row))
                assert distance > (item.size + other.size) / 2 - 2


def test_captions_are_of_known_words_and_fit(captioned: list[tuple[Scene, str]]) -> None:
    texts = [text for _, text in captioned]
    assert not [word for text in texts for word in unknown_words(text)]
    assert tokenize(texts).shape == (NUM_SCENES, MAX_LENGTH)
    used = {word for text in texts for word in text.split()}
    assert set(VOCABULARY[2:]) - used == set(), "a word that no caption uses cannot be learnt"


def test_captions_say_what_is_drawn(captioned: list[tuple[Scene, str]]) -> None:
    for scene, text in captioned:
        words = Counter(text.split())
        digits = Counter(item.digit for item in scene.objects)
        if scene.category == "counting":
            (digit,) = digits
            assert words[PLURALS[digit]] == 1 and words[DIGITS[len(scene.objects)]] == 1
        else:
            assert all(words[DIGITS[digit]] == count for digit, count in digits.items())
        said = {word for word in words if word in COLOURS}
        assert said <= {scene.background, *(item.colour for item in scene.objects)}
        if scene.category in ("colors", "color_attr"):
            assert {item.colour for item in scene.objects} <= said
        if scene.pattern == PLAIN:
            assert not {"striped", "stripes", "checked", "checks", "grainy", "grain"} & set(words)


def test_relations_hold_in_the_order_of_the_caption(captioned: list[tuple[Scene, str]]) -> None:
    seen = set()
    for scene, text in captioned:
        if scene.category != "position":
            continue
        words = text.split()
        first, second = sorted(scene.objects, key=lambda item: words.index(DIGITS[item.digit]))
        for word, holds in {
            "left": first.column < second.column,
            "right": first.column > second.column,
            "above": first.row < second.row,
            "over": first.row < second.row,
            "top": first.row < second.row,
            "below": first.row > second.row,
            "under": first.row > second.row,
            "beneath": first.row > second.row,
        }.items():
            if word in words:
                seen.add(word)
                assert holds, text
    assert len(seen) == 8


def test_objects_are_drawn_in_their_colour_at_their_place(captioned: list[tuple[Scene, str]]) -> None:
    scenes = [scene for scene, _ in captioned[:64]]
    images = SceneDrawer()(scenes, np.random.default_rng(0))
    names = list(COLOURS)
    palette = torch.tensor([COLOURS[name] for name in names])
    for scene, image in zip(scenes, images, strict=True):
        nearest = (image.permute(1, 2, 0)[:, :, None] - palette).norm(dim=-1).argmin(-1)
        for item in scene.objects:
            half = int(item.size) // 2
            rows = slice(max(0, int(item.row) - half), int(item.row) + half)
            columns = slice(max(0, int(item.column) - half), int(item.column) + half)
            ink = (nearest[rows, columns] == names.index(item.colour)).float().mean()
            assert 0.08 < float(ink) < 0.75, scene
        assert (image[:, 0, 0] - torch.tensor(COLOURS[scene.background])).norm() < 0.66, scene


def test_unknown_words_are_refused_and_long_prompts_are_cut() -> None:
    with pytest.raises(DataError, match=r"words outside the vocabulary \(dog\)"):
        tokenize(["a red dog"])
    assert torch.equal(tokenize(["a " * MAX_LENGTH]), tokenize(["a " * (MAX_LENGTH - 1)]))
    assert cut("a " * (MAX_LENGTH - 1) + "red six") == "red six" and not cut("a red six")
    assert nearest_word("Sevn") == "seven"
    assert torch.equal(tokenize(["A red three."]), tokenize(["a red three"]))
