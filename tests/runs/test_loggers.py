"""What loggers hold of a run of generate, read back: config, throughput, sample grid."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.runs.generation import generate
from mar_accel.runs.loggers import open_logger


def _run(folder: Path, tiny_model: list[str], *overrides: str) -> dict[str, Any]:
    """Generate with a logger; returns run.json."""
    plain = [override for override in tiny_model if not override.startswith("logger=")]
    generate(
        compose_settings("generate", [*plain, "dataset.num_images=4", f"output_dir={folder}", *overrides])
    )
    return json.loads((folder / "run.json").read_text())


def test_csv_holds_config_and_throughput(tiny_model: list[str], tmp_path: Path) -> None:
    record = _run(tmp_path, tiny_model, "logger=csv")
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["images_per_second"]) == pytest.approx(record["images_per_second"])
    assert float(row["seconds_per_image"]) == pytest.approx(record["seconds_per_image"])
    logged = yaml.safe_load((tmp_path / "logs" / "hparams.yaml").read_text())
    assert logged["sampler"] == record["config"]["sampler"]


def test_tensorboard_holds_throughput_and_grid(tiny_model: list[str], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = _run(tmp_path, tiny_model, "logger=tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    (speed,) = events.Scalars("images_per_second")
    assert speed.value == pytest.approx(record["images_per_second"], rel=1e-5)
    (grid,) = events.Images("samples")
    assert grid.width == grid.height >= 2 * 64
    assert (tmp_path / "tensorboard" / "hparams.yaml").is_file()


def test_none_leaves_only_the_run_folder(tiny_model: list[str], tmp_path: Path) -> None:
    _run(tmp_path, tiny_model, "logger=none")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "config.yaml",
        "grid.png",
        "images",
        "run.json",
    }


@pytest.mark.slow
def test_offline_wandb_run_holds_config_throughput_and_grid(
    tiny_model: list[str], wandb_records: Callable[[Path], list[Any]], tmp_path: Path
) -> None:
    record = _run(tmp_path, tiny_model, "logger=wandb", "logger.tags=[mine]")
    config: dict[str, Any] = {}
    history: dict[str, Any] = {}
    tags: list[str] = []
    for entry in wandb_records(tmp_path):
        kind = entry.WhichOneof("record_type")
        if kind == "run":
            tags = list(entry.run.tags)
            config |= {item.key: json.loads(item.value_json) for item in entry.run.config.update}
        elif kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in entry.config.update if item.key}
        elif kind == "history":
            for item in entry.history.item:
                history["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert {"mine", "digits"} <= set(tags)
    assert config["sampler"]["num_iter"] == 4 and config["seed"] == 0
    assert history["images_per_second"] == pytest.approx(record["images_per_second"])
    assert any(key.startswith("samples") for key in history), "the grid is not logged"
    assert list(tmp_path.rglob("media/images/*.png")), "the grid's file is missing"


def test_missing_package_of_a_logger_is_named(monkeypatch: pytest.MonkeyPatch, tiny_model: list[str]) -> None:
    import lightning.pytorch.loggers as loggers

    def absent(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(loggers.TensorBoardLogger, "__init__", absent)
    plain = [override for override in tiny_model if not override.startswith("logger=")]
    with pytest.raises(ConfigError, match="logger: TensorBoardLogger needs a package"):
        open_logger(compose_settings("generate", [*plain, "logger=tensorboard"]))
