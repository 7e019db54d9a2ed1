"""Offline W&B runs, TensorBoard events and CSVs of an evaluation, read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.evaluation.run import evaluate
from mar_accel.runs.identity import Identity

SETTINGS = [
    "dataset.num_images=20",
    "trainer.batch_size=10",
    "evaluate.fidelity_images=4",
    "evaluate.timing_rounds=0",
    "evaluate.baseline_sampler.num_iter=4",
    "evaluate.baseline_sampler.num_diffusion_steps=4",
]


def _run(folder: Path, tiny: list[str], *overrides: str) -> Identity:
    paths = [f"output_dir={folder}", f"reference.cache_dir={folder}"]
    config = compose_settings("evaluate", [*tiny, *SETTINGS, *paths, *overrides])
    evaluate(config)
    return Identity.of(config)


def _items(items: Any) -> dict[str, Any]:
    """Values by key; those of nested keys (pictures, tables) as dictionaries."""
    result: dict[str, Any] = {}
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = result
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return result


@pytest.mark.slow
def test_offline_wandb_run_holds_everything(
    tiny: list[str], tmp_path: Path, wandb_records: Callable[[Path], list[Any]]
) -> None:
    identity = _run(tmp_path, tiny, "logger=wandb", "logger.tags=[mine]", "logger.group=a-group")
    name = identity.measurement_hash
    files = list(tmp_path.rglob("*.wandb"))
    assert (
        len(files) == 1 and name in files[0].name
    )  # the id is the measurement's hash: a second run resumes it
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    run: Any = None
    for record in wandb_records(tmp_path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            history.append(_items(record.history.item))
        elif kind == "summary":
            summary |= _items(record.summary.update)
        elif kind == "config":
            config |= _items(record.config.update)
    assert run.run_id == name and run.run_group == "a-group" and run.project == "mar-accel"
    assert "mine" in run.tags and "digits" in run.tags and "NoCache" in run.tags
    assert config["dataset"]["num_images"] == 20 and config["sampler"]["num_iter"] == 4

    def rows(key: str) -> list[Any]:
        return [row[key] for row in history if key in row]

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert rows("fid") == [pytest.approx(metrics["fid"])] and rows("psnr") == [pytest.approx(metrics["psnr"])]
    assert sum(rows("ar_step/tokens")) == 256 and len(rows("ar_step/tokens")) == 4
    for curve in ("diffusion_steps", "backbone_seconds", "head_seconds", "cache_hits"):
        assert len(rows(f"ar_step/{curve}")) == 4
    # Their last values are no results.
    assert not any(key.startswith("ar_step/") for key in summary) and summary.get("fid", metrics["fid"])
    (samples,) = rows("samples")
    assert samples["captions"][:2] == ["sample 0, class 0", "sample 1, class 1"]
    (comparison,) = rows("comparison")
    assert comparison["count"] == 1 and "difference" in comparison["captions"][0]
    (table,) = rows("runs")
    stored = json.loads(next(tmp_path.rglob("runs*.table.json")).read_text())
    assert table["_type"] == "table-file" and stored["data"][0][0] == identity.evaluation_hash
    _run(tmp_path, tiny, "logger=wandb")
    both = {file.name for file in tmp_path.rglob("*.wandb")}
    assert both == {f"run-{name}.wandb"}  # the same run once more


@pytest.mark.slow
def test_tensorboard_holds_curves_numbers_and_pictures(tiny: list[str], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _run(tmp_path, tiny, "logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert events.Scalars("fid")[0].value == pytest.approx(metrics["fid"])
    assert [event.step for event in events.Scalars("ar_step/tokens")] == [0, 1, 2, 3]
    assert {"samples", "comparison", "fidelity"} <= set(tags["images"])
    assert any(tag.startswith("runs") for tag in tags["tensors"])


def test_csv_holds_curves_and_numbers(tiny: list[str], tmp_path: Path) -> None:
    _run(tmp_path, tiny, "logger=csv")
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert sum(int(float(row["ar_step/tokens"])) for row in rows if row["ar_step/tokens"]) == 256
    assert [float(row["fid"]) for row in rows if row["fid"]] == [pytest.approx(metrics["fid"])]
    assert next(tmp_path.rglob("hparams.yaml")).stat().st_size > 100
