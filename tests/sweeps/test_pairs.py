"""Comparisons image by image, rows of equal cost, and tuned keys."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings, SweepSettings
from mar_accel.errors import ConfigError, DataError
from mar_accel.profiling.interleaved import Measured
from mar_accel.sweeps import cost
from mar_accel.sweeps.collected import collect
from mar_accel.sweeps.combinations import Combination
from mar_accel.sweeps.matched import _in_order, _nearest
from mar_accel.sweeps.pairs import compare_with_baseline


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def _swept(run_here: Any, folder: Path, *arguments: str) -> Path:
    """The folder of a sweep of ``generate`` below a folder, where statistics of references are kept, too."""
    words = ["-m", *arguments, f"hydra.sweep.dir={folder / 's'}"]
    outcome = run_here("generate", *words, f"reference.cache_dir={folder / 'statistics'}")
    assert outcome.status == 0, outcome.stderr
    return folder / "s"


@pytest.fixture
def sweep(run_here: Any, tiny_model: list[str], tmp_path: Path) -> Path:
    """Two settings with two seeds each, ten images of three classes."""
    images = ["dataset.num_images=10", "dataset.labels=[0,1,2]", "reference.augmentations=0"]
    return _swept(run_here, tmp_path, *tiny_model, *images, "sampler.num_iter=3,4", "seed=0,1")


def test_a_run_that_has_lost_images_is_not_compared(run_here: Any, sweep: Path, tmp_path: Path) -> None:
    runs = [file.parent for file in sweep.glob("*/run.json") if '"num_iter": 3' in file.read_text()]
    (runs[0] / "images" / "000003.png").unlink()
    arguments = ["collect.paired=true", "collect.baseline=sampler.num_iter=4"]
    outcome = run_here("collect", str(sweep), *arguments, f"output_dir={tmp_path / 'out'}")
    assert outcome.status == 2 and f"{runs[0]} has 9 images, but its run.json records" in outcome.stderr


def test_rows_are_compared_image_by_image(run_here: Any, sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["collect.paired=true", "collect.worst=4", "collect.baseline=sampler.num_iter=4"]
    outcome = run_here("collect", str(sweep), *arguments, f"output_dir={out}")
    assert outcome.status == 0, outcome.stderr
    assert "worst of sampler.num_iter=3:" in outcome.stdout and "narrower" in outcome.stdout
    (row,) = _rows(out / "paired.csv")
    assert (row["setting"], row["images"]) == ("sampler.num_iter=3", "20")
    for name in ("recognised", "class_score", "fid"):
        own, base, difference = (float(row[key]) for key in (name, f"{name}_baseline", f"{name}_difference"))
        assert difference == pytest.approx(own - base)
        assert float(row[f"{name}_low"]) <= float(row[f"{name}_high"])
    classes = _rows(out / "classes.csv")
    assert sorted(row["class"] for row in classes) == ["0", "1", "2"]
    losses = [float(row["class_score_difference"]) for row in classes]
    assert losses == sorted(losses) and sum(int(row["images"]) for row in classes) == 20
    worst = _rows(out / "worst.csv")
    drops = [float(row["score"]) - float(row["score_baseline"]) for row in worst]
    assert len(worst) == 4 and drops == sorted(drops)
    (line,) = _rows(out / "table.csv")[1:]
    assert float(line["fid_difference"]) == pytest.approx(float(row["fid_difference"]))
    assert "Δ recognised" in (out / "table.md").read_text() and r"$\Delta$" in (out / "table.tex").read_text()
    assert (out / "worst_1.png").is_file() and "sampler.num_iter=3" in (out / "paired.md").read_text()
    # Without common seeds there is nothing to compare.
    collected = collect([folder for folder in sweep.glob("digits-*")], "sampler.num_iter=4")
    base, other = collected.rows
    (pair,), notes = compare_with_baseline(collected)
    assert notes == []
    assert pair.ours.names == [(seed, index) for seed in (0, 1) for index in range(10)]
    scores = pair.ours.scores - pair.theirs.scores  # type: ignore[operator]
    assert scores[pair.worst[0]] == scores.min() and other.seeds == base.seeds == (0, 1)
    apart = [run.folder for row, seed in ((base, 0), (other, 1)) for run in row.runs if run.seed == seed]
    with pytest.raises(DataError, match="no images with the seeds"):
        compare_with_baseline(collect(apart, "sampler.num_iter=4"))


def test_the_score_of_scenes_is_compared_by_prompts(
    run_here: Any, tiny_scenes: list[str], tmp_path: Path
) -> None:
    images = ["dataset=scenes_eval", "dataset.num_images=24", "reference.num_images=100"]
    sweep = _swept(run_here, tmp_path, *tiny_scenes, *images, "sampler.num_iter=3,4")
    collected = collect([sweep], "sampler.num_iter=4")
    ((pair,), notes) = compare_with_baseline(collected)
    assert not notes
    assert pair.ours.labels.tolist() == [index // 4 for index in range(24)]
    found = pair.differences["scenes_overall"]
    assert found.count == 6 and -1 <= found.low <= found.difference <= found.high <= 1
    assert found.ours == pytest.approx(float(pair.ours.own["scenes_overall"].mean()))
    assert "scenes_counting" not in pair.differences, "one prompt of a category has no interval"
    assert pair.differences["fid"].count == 24
    for dataset in ("scenes_eval", "scenes"):
        arguments = [
            f"evaluate.images={pair.row.runs[0].folder}",
            "logger=none",
            f"output_dir={tmp_path / dataset}",
        ]
        arguments += ["reference.num_images=100", f"reference.cache_dir={tmp_path / 'statistics'}"]
        arguments += ["evaluate.baseline=none", "model=scenes"]
        arguments += [f"dataset={dataset}", "metrics=scenes_eval"]
        outcome = run_here("evaluate", *arguments)
        assert outcome.status == 0, outcome.stderr
        metrics = json.loads((tmp_path / dataset / "metrics.json").read_text())
        assert metrics["scenes_overall"] == pytest.approx(found.ours), "the prompts are those of the run"


def test_only_the_best_value_of_a_tuned_key_is_shown(sweep: Path) -> None:
    tuned = collect([sweep], tuned=["sampler.num_iter"], objective="seconds_per_image")
    values = {row.values["sampler.num_iter"]: row.value("seconds_per_image") for row in collect([sweep]).rows}
    (row,) = tuned.rows
    assert row.value("seconds_per_image") == min(values.values(), key=lambda value: value or math.inf)
    assert any("confirm it with a fresh seed" in note for note in tuned.notes)
    for arguments in ({"tuned": ["cache"]}, {"tuned": ["sampler.num_iter"], "objective": "num_images"}):
        with pytest.raises(ConfigError, match="in no known way"):
            collect([sweep], **arguments)  # type: ignore[arg-type]


class NumberOfPrompts(Metric):
    """Each image has the length of its prompt."""

    def __init__(self, prompts: list[str]):
        super().__init__()
        self.prompts = prompts

    def update(self, images: Tensor, labels: Tensor) -> None:
        self.per_image(images, labels)

    def compute(self) -> dict[str, float]:
        return {"length": 1.0}

    def per_image(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"length": torch.tensor([float(len(self.prompts[label])) for label in labels.tolist()])}


def test_images_of_other_prompts_are_no_pairs(run_here: Any, tiny_scenes: list[str], tmp_path: Path) -> None:
    metric = "+metrics.own._target_=tests.sweeps.test_pairs.NumberOfPrompts"
    # The first two prompts of b are those of a.
    for name, prompts in (("a", "a six,a two"), ("b", "a six,a two,a red seven"), ("c", "a six,a red two")):
        data = ["dataset=prompts", f"dataset.prompts=[{prompts}]", "features=scenes", metric]
        arguments = [*tiny_scenes, *data, "sampler.num_iter=2", "generate.format=png"]
        outcome = run_here("generate", *arguments, f"output_dir={tmp_path / name}")
        assert outcome.status == 0, outcome.stderr
    table = collect([tmp_path])
    base = next(n for n, row in enumerate(table.rows) if row.runs[0].folder.name == "a")
    pairs, notes = compare_with_baseline(replace(table, compared_with=(base,) * 3))
    assert [pair.row.runs[0].folder.name for pair in pairs] == ["b"]
    assert pairs[0].differences["own_length"].difference == 0
    assert len(notes) == 1 and "prompts, and given pictures) of its baseline" in notes[0]


def test_the_value_nearest_to_a_cost_is_found_with_few_counts() -> None:
    group = [Combination(("cache=none", f"k={value}")) for value in range(8, 72)]
    for falls in (False, True):
        asked = []

        def excess(combination: Combination, falls: bool = falls, asked: list[int] = asked) -> float:
            value = int(combination.overrides[1].removeprefix("k="))
            asked.append(value)
            return -math.log(value / 30.2) if falls else math.log(value / 30.2)

        assert _nearest(group, "k", excess).overrides[1] == "k=30" and len(asked) <= 9
    assert _nearest(group, "k", lambda _: math.inf) in group, "its run says why it is refused"

    def refused_below(combination: Combination) -> float:
        value = int(combination.overrides[1].removeprefix("k="))
        return math.inf if value < 20 or value > 60 else math.log(value / 30.2)

    assert _nearest(group, "k", refused_below).overrides[1] == "k=30"


def test_the_order_of_the_values_does_not_matter() -> None:
    group = [Combination(("cache=none", f"k={value}")) for value in (2, 64, 48, 4, 8, 32, 16)]
    assert [own.overrides[1] for own in _in_order(group, "k")] == [
        f"k={n}" for n in (2, 4, 8, 16, 32, 48, 64)
    ]
    named = [Combination((f"k={value}",)) for value in ("gtr", "16")]
    assert _in_order(named, "k") == named


def test_settings_are_matched_by_measured_time(
    monkeypatch: pytest.MonkeyPatch, tiny_model: list[str]
) -> None:
    """A setting takes as long as it has AR steps; the unaccelerated sampler has 64."""
    timed = []

    def measure(settings: Settings, sessions: list[Any], rounds: int, folder: Path) -> list[Measured]:
        timed.append(len(sessions))
        assert settings.trainer.devices == 1
        return [Measured([float(len(session.plan.steps))] * rounds) for session in sessions]

    monkeypatch.setattr(cost, "measure_interleaved", measure)
    tiny = [word for word in tiny_model if not word.startswith("sampler.")]
    for keys, wanted in (({"latency": 16.0}, 16), ({"speedup": 2.0}, 32)):
        target = cost.target_of(SweepSettings(adjust="sampler.num_iter", **keys))
        assert isinstance(target, cost.MeasuredTime)
        for steps in (wanted, 2 * wanted):
            settings = compose_settings("generate", [*tiny, f"sampler.num_iter={steps}"])
            assert target.excess(settings) == pytest.approx(math.log(steps / wanted))
    assert timed == [1, 1, 2, 2], "a speedup is timed in turn with the unaccelerated sampler"


def test_every_method_gets_the_value_that_meets_the_cost(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, "dataset.num_images=1", f"hydra.sweep.dir={tmp_path / 's'}"]
    grid = ["cache=none,lazymar", "sampler.num_iter=range(4,14)", "sampler.num_diffusion_steps=40"]
    outcome = run_here("generate", *sweep, *grid, "sweep.adjust=sampler.num_iter", "sweep.flops_ratio=12")
    assert outcome.status == 0 and "2 done" in outcome.stdout, outcome.stderr
    assert outcome.stdout.count("of the wanted FLOPs") == 2
    (table,) = (tmp_path / "s" / "tables").glob("*.json")
    overrides = [
        dict(o.split("=") for o in run["overrides"]) for run in json.loads(table.read_text())["runs"]
    ]
    plain, lazy = (int(own["sampler.num_iter"]) for own in overrides)
    assert 4 <= plain <= lazy <= 13, "a cheaper step leaves more steps"
    outcome = run_here("generate", *sweep, *grid, "sweep.flops_ratio=6")
    assert outcome.status == 2 and "sweep.adjust needs one of" in outcome.stderr


def test_rows_are_compared_with_their_own_baselines(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    images = ["dataset.num_images=6", "reference.augmentations=0"]
    swept = ["sampler.num_iter=3,4", "sampler/order=random,raster"]
    sweep = _swept(run_here, tmp_path, *tiny_model, *images, *swept)
    arguments = [str(sweep), "collect.paired=true", "collect.worst=0"]
    arguments += ["collect.baseline=sampler.order=random", "collect.baseline_per=[sampler.num_iter]"]
    arguments += [f"output_dir={tmp_path / 'out'}"]
    outcome = run_here("collect", *arguments)
    assert outcome.status == 0, outcome.stderr
    assert "the row with sampler.order=random and the same sampler.num_iter" in outcome.stdout
    rows = _rows(tmp_path / "out" / "paired.csv")
    assert sorted((row["setting"], row["baseline"]) for row in rows) == [
        (f"sampler.num_iter={n} sampler.order=raster", f"sampler.num_iter={n} sampler.order=random")
        for n in (3, 4)
    ]
    # The difference is the one to the own baseline, as if the two runs were alone.
    for row in rows:
        runs = [run for own in collect([sweep]).rows for run in own.runs]
        own = [
            run.folder for run in runs if f"num_iter={run.config['sampler']['num_iter']}" in row["setting"]
        ]
        ((pair,), _) = compare_with_baseline(collect(own, "sampler.order=random"))
        assert float(row["fid_difference"]) == pytest.approx(pair.differences["fid"].difference)
    assert "compared with" in (tmp_path / "out" / "paired.md").read_text()
