"""Every command, sampler, cache, solver and selection under every precision, on a tiny model.

Each two of them meet in at least one run. The full walk, without the commands, is marked long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.analysis.calibration_run import calibrate
from mar_accel.analysis.plan_report import show_plan
from mar_accel.analysis.redundancy_run import measure_redundancy
from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings, TrainerSettings
from mar_accel.evaluation.run import evaluate
from mar_accel.inference.session import Prediction, Session
from mar_accel.inference.trainer import build_trainer
from mar_accel.profiling.benchmark import benchmark
from mar_accel.profiling.flops import count_flops
from mar_accel.runs.generation import generate
from mar_accel.sweeps.table_run import evaluate_table
from mar_accel.training.run import train

from .pairwise import Row, composed, pairs_of, pairwise

CONF = Path(__file__).parents[1] / "conf"
PRECISIONS = ("32-true", "bf16-true", "16-true", "64-true", "bf16-mixed", "16-mixed")


def _members(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Presets that set other numbers for the classes of another preset; only the full walk runs them.
SAME_CLASSES = {
    **{"mar_32": "mar", "mar_256": "mar", "mar_reduced": "mar", "lightgen_32": "lightgen"},
    **{"gtr_16": "gtr", "gtr_19": "gtr", "emigm_long": "emigm"},
}
# Presets that a search has found. Each of their parts is one of another preset.
FOUND = ("frontier_14x", "frontier_5x")
SAMPLING = {
    "sampler": _members("sampler"),
    "cache": _members("cache"),
    "sampler/solver": _members("sampler/solver"),
    "sampler/selection": _members("sampler/selection"),
}
Command = Callable[[Settings, list[str]], object]
# By the name of the primary config; tables and benchmarks take the overrides of their rows and variants too.
COMMANDS: dict[str, Command] = {
    "generate": lambda settings, overrides: generate(settings),
    "evaluate": lambda settings, overrides: evaluate(settings),
    "evaluate_table": evaluate_table,
    "benchmark": benchmark,
    "calibrate": lambda settings, overrides: calibrate(settings),
    "redundancy": lambda settings, overrides: measure_redundancy(settings),
    "plan": lambda settings, overrides: show_plan(settings),
}
FACTORS = {
    **{"command": list(COMMANDS), "trainer.precision": list(PRECISIONS), **SAMPLING},
    "sampler": [name for name in SAMPLING["sampler"] if name not in {*SAME_CLASSES, *FOUND}],
}
# calibrate fits a token cache.
IMPOSSIBLE = {
    frozenset({("command", "calibrate"), ("cache", cache)})
    for cache in ("none", "condition", "head", "as_published")
}
ROWS = pairwise(FACTORS, IMPOSSIBLE)
# As few AR steps and timesteps as leave every cache something to reuse.
SHORT = ["sampler.num_iter=12", "sampler.num_diffusion_steps=15", "model.architecture.head_depth=2"]


@pytest.fixture(scope="module")
def tiny(tiny_model: list[str]) -> list[str]:
    return [*tiny_model, *SHORT]


def _sampling(row: Row) -> list[str]:
    """Overrides of sampler and cache, whose head cache refers to short chains."""
    return [*(f"{group}={row[group]}" for group in SAMPLING), *_short_head(row["cache"])]


def samplings_under(precision: str) -> list[list[str]]:
    """Overrides of the samplings that a precision meets, if each two of precision and presets meet."""
    factors = {"trainer.precision": PRECISIONS, **SAMPLING, "sampler": FACTORS["sampler"]}
    return [_sampling(row) for row in pairwise(factors) if row["trainer.precision"] == precision]


def check_samplings(
    trainer: TrainerSettings,
    samplings: Iterable[list[str]],
    tiny: list[str],
    folder: Path,
    labels: list[int],
    device: str = "cpu",
) -> None:
    """Sample with Lightning's contexts of a precision; tokens and images must be float32 and finite."""
    plugin = build_trainer(trainer, [], folder).precision_plugin
    plain = compose_settings("generate", tiny)
    base = Session.from_settings(plain)
    for module in (base.model, base.autoencoder):
        plugin.convert_module(module.to(device))
    for sampling in samplings:
        session = base.with_settings(composed("generate", *tiny, *sampling), plain)
        with plugin.predict_step_context():
            prediction = session.sample(list(range(len(labels))), torch.tensor(labels, device=device))
        _check_tensors(prediction.images, prediction.tokens)


def _short_head(cache: str) -> list[str]:
    return ["cache.head.period_for=15"] if cache in ("head", "lazymar", "lazymar_late") else []


def _overrides(row: Row, folder: Path) -> list[str]:
    """All overrides of a run; sampler and cache are those of a row or variant where the command has them."""
    # Statistics need two images.
    count = 2 if row["command"].startswith("evaluate") else 1
    common = [f"trainer.batch_size={count}", f"trainer.precision={row['trainer.precision']}"]
    if row["command"] != "benchmark":
        common.append(f"dataset.num_images={count}")
    sampling, judged = _sampling(row), ["reference.augmentations=0", f"reference.cache_dir={folder / 'ref'}"]
    baseline = [f"evaluate.baseline_sampler.{key}=4" for key in ("num_iter", "num_diffusion_steps")]
    own = {
        "evaluate": [*judged, *baseline, "evaluate.timing_rounds=1"],
        "evaluate_table": [*judged, f"table.rows={folder / 'rows.yaml'}", "table.timing_rounds=1"],
        "benchmark": ["benchmark.only=[mar,own]", "benchmark.rounds=1", "benchmark.warmup_rounds=0"],
        "calibrate": ["calibrate.flops_ratio=1.0001"],
        "redundancy": ["redundancy.head_every=7"],
    }.get(row["command"], [])
    if row["command"] == "benchmark":
        own.append(f"+benchmark.variants.own={json.dumps(sampling)}")
    if row["command"] == "evaluate_table":
        rows = [{"name": "plain", "overrides": []}, {"name": "own", "overrides": sampling}]
        (folder / "rows.yaml").write_text(json.dumps(rows))
    if row["command"] in ("benchmark", "evaluate_table"):
        sampling = []
    return [*common, *own, *sampling, f"output_dir={folder / 'run'}"]


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Prediction]]:
    """What every session samples."""
    made, sample = list[Prediction](), Session.sample

    def recorded(self: Session, *arguments: Any) -> Prediction:
        made.append(sample(self, *arguments))
        return made[-1]

    monkeypatch.setattr(Session, "sample", recorded)
    yield made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_pairs(row: Row, tiny: list[str], predictions: list[Prediction], tmp_path: Path) -> None:
    overrides = [*tiny, *_overrides(row, tmp_path)]
    settings = compose_settings(row["command"], overrides)
    result = COMMANDS[row["command"]](settings, overrides)
    if row["command"] == "evaluate_table":
        assert not result.failures  # type: ignore[attr-defined]
    assert bool(predictions) == (row["command"] != "plan")
    for prediction in predictions:
        _check_tensors(prediction.images, prediction.tokens)


def _check_tensors(*tensors: Tensor) -> None:
    for tensor in tensors:
        assert tensor.dtype == torch.float32 and bool(tensor.isfinite().all())


@pytest.mark.parametrize("cache", sorted({*SAMPLING["cache"]} - {"none", "as_published"}))
def test_short_samplings_reuse_something(cache: str, tiny: list[str]) -> None:
    own = compose_settings("generate", tiny)
    plain = Session.from_settings(own)
    with_cache = compose_settings("generate", [*tiny, f"cache={cache}", *_short_head(cache)])
    cached = plain.with_settings(with_cache, own)
    flops, full = (
        count_flops(item.model.config, item.sampler, item.cache, item.plan) for item in (cached, plain)
    )
    assert flops.total < full.total


def test_all_pairs_are_met() -> None:
    met = set[Any]().union(*map(pairs_of, ROWS))
    wanted = {
        frozenset({(a, x), (b, y)})
        for (a, xs), (b, ys) in product(FACTORS.items(), repeat=2)
        if a < b
        for x, y in product(xs, ys)
    }
    assert wanted - met == IMPOSSIBLE and not met & IMPOSSIBLE
    assert len(ROWS) < 90


def _classes(preset: str) -> dict[str, str]:
    """The class of each part of a preset."""
    sampler = compose_settings("generate", [f"sampler={preset}"]).sampler
    return {key: value["_target_"] for key, value in sampler.items() if isinstance(value, dict)}


@pytest.mark.parametrize("name", SAME_CLASSES)
def test_a_preset_that_is_left_out_has_the_classes_of_another(name: str) -> None:
    assert SAME_CLASSES[name] in FACTORS["sampler"] and _classes(name)
    assert _classes(name) == _classes(SAME_CLASSES[name])


def test_a_preset_that_was_found_has_parts_of_others() -> None:
    known = {part for name in FACTORS["sampler"] for part in _classes(name).items()}
    for name in FOUND:
        # The solver is a factor of its own.
        assert {key for key, _ in {*_classes(name).items()} - known} <= {"solver"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training(precision: str, tiny: list[str], tmp_path: Path) -> None:
    model = [override for override in tiny if override.startswith("model.")]
    short = ["training.max_steps=2", "training.batch_size=2", f"trainer.precision={precision}", "logger=none"]
    result = train(compose_settings("train", [*model, *short, f"output_dir={tmp_path}"]))
    assert result is not None and result.steps == 2


@pytest.mark.parametrize(
    ("given", "accelerator", "run"),
    [
        ("16-mixed", "cpu", "bf16-mixed"),
        (16, "cpu", "bf16-mixed"),
        ("16-mixed", "gpu", "16-mixed"),
        ("bf16", "cpu", "bf16-mixed"),
        (32, "gpu", "32-true"),
        ("64", "cpu", "64-true"),
        ("16-true", "cpu", "16-true"),
    ],
)
def test_precision_is_recorded_as_it_runs(given: str | int, accelerator: str, run: str) -> None:
    assert TrainerSettings(precision=given, accelerator=accelerator).precision == run


def test_record_names_the_precision_that_ran(tiny: list[str], tmp_path: Path) -> None:
    few = ["dataset.num_images=1", "trainer.precision=16-mixed", f"output_dir={tmp_path}"]
    generate(compose_settings("generate", [*tiny, *few]))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.long
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sampler", SAMPLING["sampler"])
def test_full_walk(precision: str, sampler: str, tiny: list[str], tmp_path: Path) -> None:
    """All samplings under all precisions, with Lightning's contexts of that precision."""
    groups = {**SAMPLING, "sampler": [sampler]}
    rows = (dict(zip(groups, values, strict=True)) for values in product(*groups.values()))
    check_samplings(TrainerSettings(precision=precision), map(_sampling, rows), tiny, tmp_path, [3])
