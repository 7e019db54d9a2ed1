"""The feature network of scenes, its training, and drawn scenes as the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scene_prompts import reference_scene
from mar_accel.data.scenes import CATEGORIES, Scene, SceneObject
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.judge import Judge
from mar_accel.metrics.features import quantise
from mar_accel.metrics.scene_features import SceneFeatures, SceneTargets
from mar_accel.metrics.scene_reference import SceneReference, drawn_scenes
from mar_accel.training import scene_features
from mar_accel.training.features import train_features


def test_targets_name_what_a_scene_shows() -> None:
    def item(digit: int, colour: str, column: float, row: float) -> SceneObject:
        return SceneObject(digit, colour, column, row, 25.0)

    pair = (item(3, "blue", 32, 16), item(0, "red", 32, 48))
    triple = (item(5, "white", 16, 16), item(5, "white", 48, 16), item(5, "white", 32, 48))
    targets = SceneTargets.of(
        [Scene("two_object", pair, "green", "checks"), Scene("counting", triple, "purple", "grain")]
    )
    assert targets.background.tolist() == [1, 4] and targets.pattern.tolist() == [2, 3]
    assert targets.layout.tolist() == [2, 3]
    assert [row.nonzero().flatten().tolist() for row in targets.objects] == [[0, 3 * 6 + 2], [5 * 6 + 5]]


def test_the_shipped_network_reads_drawn_scenes() -> None:
    scenes = [reference_scene(number, balanced=True) for number in range(60)]
    images = quantise(SceneDrawer()(scenes, np.random.default_rng(0)))
    extractor, targets = SceneFeatures(), SceneTargets.of(scenes)
    features = extractor(images)
    assert features.pooled.shape == (60, 64) and features.logits.shape == (60, 0)
    background, pattern, layout, objects = extractor.network.read(features.pooled)
    for read, wanted in (
        (background, targets.background),
        (pattern, targets.pattern),
        (layout, targets.layout),
    ):
        assert (read.argmax(1) == wanted).float().mean() > 0.9
    assert ((objects > 0) == targets.objects.bool()).all(1).float().mean() > 0.4
    for wrong in (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 1, 64, 64, dtype=torch.uint8)):
        with pytest.raises(DataError, match="features=scenes needs images of 3×64×64, got"):
            extractor(wrong)
    with pytest.raises(ConfigError, match=r"features\.weights=none\.safetensors cannot be read as scene"):
        SceneFeatures("none.safetensors")


def test_drawn_scenes_are_the_same_again_and_cached(tmp_path: Path) -> None:
    first, again = (torch.cat(list(drawn_scenes(300, balanced=True))) for _ in range(2))
    assert first.shape == (300, 3, 64, 64) and torch.equal(first, again)
    assert [reference_scene(number, True).category for number in range(6)] == list(CATEGORIES)
    settings = compose_settings(
        "evaluate",
        [
            "model=scenes",
            "dataset=scenes_eval",
            "reference.num_images=300",
            f"reference.cache_dir={tmp_path}",
        ],
    )
    reference = Judge.of(settings).reference  # type: ignore[union-attr]
    assert reference is not None and reference.source == "300 drawn scenes, balanced"
    assert reference.features is not None and reference.features.shape == (300, 64)
    assert len(list(tmp_path.iterdir())) == 1
    for scenes in ("scenes", "scenes_eval"):
        node = compose_settings("evaluate", ["model=scenes", f"dataset={scenes}"]).reference
        assert node["balanced"] == (scenes == "scenes_eval")
    with pytest.raises(ConfigError, match=r"reference\.num_images must be between 2 and 1,000,000, got 1"):
        SceneReference(num_images=1)


def test_the_network_is_trained_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_features, "EPOCH", 128)
    monkeypatch.setattr(scene_features, "MEASURED", 64)
    overrides = ["model=scenes", "dataset=scenes", "feature_training.epochs=2", f"output_dir={tmp_path}"]
    results = train_features(compose_settings("train_features", overrides))
    record = json.loads((tmp_path / "run.json").read_text())
    assert {key: record[key] for key in results} == results
    names = [f"accuracy_{name}_held_out" for name in ("background", "pattern", "layout", "objects")]
    assert list(results)[2:] == names and all(0 <= results[name] <= 1 for name in names)
    assert SceneFeatures(str(tmp_path / "model.safetensors")).fingerprint != SceneFeatures().fingerprint
    with pytest.raises(
        ConfigError, match="dataset=folder has no feature network; choose one of digits, scenes"
    ):
        train_features(compose_settings("train_features", ["dataset=folder", "dataset.path=."]))


@pytest.mark.slow
def test_evaluate_gives_the_score_and_the_distance(
    run_here: Any, tiny_scenes: list[str], tmp_path: Path
) -> None:
    outcome = run_here(
        "evaluate",
        *(*tiny_scenes, "dataset=scenes_eval", "sampler.num_iter=4", "dataset.num_images=48"),
        *("evaluate.baseline=none", "evaluate.profile=false", "trainer.batch_size=24"),
        *("reference.num_images=300", f"reference.cache_dir={tmp_path}", f"output_dir={tmp_path / 'out'}"),
    )
    assert outcome.status == 0, outcome.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["fid"] > 0 and 0 <= metrics["recall"] <= 1
    assert {f"scenes_{name}" for name in ("overall", *CATEGORIES)} <= set(metrics)
