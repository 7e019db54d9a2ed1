"""The score of scenes is validated on real scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scene_prompts import evaluation_scene
from mar_accel.data.scenes import CATEGORIES, Scene, SceneObject
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.scene_objects import FoundObject, find_objects
from mar_accel.metrics.scene_score import SceneScore, is_right


def _score(numbers: range, shift: int = 0) -> dict[str, float]:
    """Score of real scenes of some prompts; with a shift, of the scenes of other prompts."""
    scenes = [evaluation_scene(number + shift)[0] for number in numbers]
    images = SceneDrawer()(scenes, np.random.default_rng(3))
    score = SceneScore()
    score.update((images * 255).round().to(torch.uint8), torch.tensor(list(numbers)))
    return {name: float(value) for name, value in score.compute().items()}


def test_real_scenes_are_right_and_others_are_not() -> None:
    right = _score(range(60))
    assert list(right) == ["overall", *CATEGORIES]
    # Ten images of each category.
    assert all(value > 0.85 for value in right.values()), right
    assert _score(range(60), shift=6)["overall"] < 0.35


@pytest.mark.slow
def test_real_scenes_of_every_category_are_right() -> None:
    values = _score(range(1800))
    assert all(value >= 0.97 for value in values.values()), values
    assert values["overall"] >= 0.985


def _scene(category: str, *objects: tuple[int, str], relation: str = "") -> Scene:
    items = tuple(SceneObject(digit, colour, 0.0, 0.0, 26.0) for digit, colour in objects)
    return Scene(category, items, "white", "plain", relation)


PAIR = (3, "red"), (5, "blue")


@pytest.mark.parametrize(
    ("scene", "found", "right"),
    [
        (_scene("single_object", (3, "red")), [(3, "blue", 30, 30)], True),
        (_scene("single_object", (3, "red")), [(5, "red", 30, 30)], False),
        (_scene("two_object", (3, "red"), (5, "blue")), [(3, "red", 9, 9)], False),
        (_scene("counting", *[(3, "red")] * 2), [(3, "red", 9, 9), (3, "blue", 40, 9)], True),
        (_scene("counting", *[(3, "red")] * 2), [(3, "red", 9, 9)] * 3, False),
        (_scene("colors", (3, "red")), [(3, "blue", 9, 9), (5, "red", 9, 9)], False),
        (_scene("color_attr", (3, "red"), (5, "blue")), [(3, "blue", 9, 9), (5, "red", 9, 9)], False),
        (_scene("color_attr", (3, "red"), (5, "blue")), [(5, "blue", 9, 9), (3, "red", 9, 9)], True),
        (_scene("position", *PAIR, relation="left"), [(3, "red", 9, 9), (5, "red", 40, 9)], True),
        (_scene("position", *PAIR, relation="below"), [(3, "red", 9, 9), (5, "red", 9, 40)], False),
    ],
)  # fmt: skip
def test_rules(scene: Scene, found: list[tuple[int, str, float, float]], right: bool) -> None:
    assert is_right(scene, [FoundObject(*item) for item in found]) == right


def test_images_without_objects_have_none() -> None:
    assert find_objects(torch.full((3, 64, 64), 255, dtype=torch.uint8)) == []
    noise = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert isinstance(find_objects(noise), list)
    with pytest.raises(DataError, match="needs images of 3×64×64, got 1×32×32"):
        SceneScore().update(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.tensor([0]))


def test_each_image_has_a_value_in_its_category() -> None:
    scenes = [evaluation_scene(number)[0] for number in range(12)]
    images = (SceneDrawer()(scenes, np.random.default_rng(3)) * 255).round().to(torch.uint8)
    values = SceneScore().per_image(images, torch.arange(12))
    assert list(values) == ["overall", *CATEGORIES] and not values["overall"].isnan().any()
    for number, name in enumerate(CATEGORIES):
        assert (~values[name].isnan()).nonzero().flatten().tolist() == [number, number + 6]
    with pytest.raises(ConfigError, match="judges images of the prompts of dataset=scenes_eval"):
        SceneScore(["a six"])
    SceneScore([evaluation_scene(0)[1]])


def test_the_metric_comes_with_the_data_set() -> None:
    settings = compose_settings("evaluate", ["model=scenes", "dataset=scenes_eval"])
    assert list(settings.metrics) == ["scenes"]
    assert compose_settings("evaluate", []).metrics == {}
