"""The command that trains the digit network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.training.features import train_features


def test_trained_network_is_loaded_and_measured_on_scans_it_has_not_seen(tmp_path: Path) -> None:
    results = train_features(
        compose_settings("train_features", ["feature_training.epochs=3", f"output_dir={tmp_path}"])
    )
    record = json.loads((tmp_path / "run.json").read_text())
    assert {key: record[key] for key in results} == results
    assert record["num_trained_on"] + record["num_held_out"] == 1797
    assert 0.8 < record["accuracy_held_out"] <= 1 and 0.8 < record["accuracy_held_out_augmented"] <= 1
    network = DigitFeatures(str(tmp_path / "model.safetensors"))
    assert network.fingerprint != DigitFeatures().fingerprint


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("feature_training.epochs=0", r"feature_training\.epochs must be ≥ 1, got 0\.$"),
        ("feature_training.held_out=1", r"feature_training\.held_out must be < 1, got 1\.$"),
    ],
)
def test_bad_settings_are_named(override: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train_features(compose_settings("train_features", [override, f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
