"""Every experiment's command runs, at a tiny size, and leaves what its folder records."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import load_rows, select_rows

FOLDER = Path(__file__).parents[1] / "experiments"


def _module(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"experiment_{file.parent.name}_{file.stem}", file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look for their module there.
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


EXPERIMENTS = _module(FOLDER / "run.py")
RUNS = [run for name in EXPERIMENTS.names() for run in EXPERIMENTS.read(name)]
# What makes a command tiny, besides the tiny model. Rows and sweeps have their own steps.
FEW_STEPS = ["sampler.num_iter=4"]


def _few_values(override: str) -> str:
    """The first values of a sweep: two of the groups, one of the numbers."""
    key, equals, value = override.partition("=")
    if not equals:
        return override
    values = value.split(",")
    return override if value.startswith("[") else f"{key}={','.join(values[: 1 if '.' in key else 2])}"


def _is_of_scenes(run: Any) -> bool:
    source = (FOLDER / run.experiment / run.script).read_text() if run.script else ""
    return "model=scenes" in run.overrides or '"model=scenes"' in source


def _tiny(run: Any, tiny_model: list[str], cache_dir: Path) -> list[str]:
    """The overrides with which a command takes a second."""
    small = [*tiny_model, "dataset.num_images=4", "trainer.batch_size=2", "trainer=cpu"]
    if run.script:
        return [word for word in tiny_model if not word.startswith("callbacks")] + small[-3:-1]
    small += [f"reference.cache_dir={cache_dir}"]
    small += ["reference.num_images=60"] if _is_of_scenes(run) else ["reference.augmentations=0"]
    if run.command == "redundancy":
        return [*tiny_model, "dataset.num_images=2", "trainer.batch_size=2", "redundancy.head_every=2"]
    small = [word for word in small if not word.startswith("sampler.")]
    if run.command == "evaluate_table":
        few = ",".join(f"'{name}'" for name in _row_names(run)[:3])
        small += [*FEW_STEPS, "table.timing_rounds=1", "table.timing_batch_size=1", f"table.only=[{few}]"]
    return small


def _row_names(run: Any) -> list[str]:
    """The rows of a table that an experiment evaluates."""
    table = compose_settings(run.command, run.overrides).table
    return [row.name for row in select_rows(load_rows(table.rows), table.only, "table.only")]


@pytest.mark.parametrize(
    "run", [run for run in RUNS if run.command == "evaluate_table"], ids=lambda run: run.experiment
)
def test_the_rows_of_an_experiment_are_there(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    assert _row_names(run)


def _kind(run: Any) -> tuple[Any, ...]:
    """What tells the commands of experiments apart; those of a kind run the same code with other rows."""
    own = (run.experiment, run.script) if run.script else ()
    return (run.command, run.sweep, _is_of_scenes(run), bool(run.figures), bool(run.paired), own)


def _tiny_runs() -> list[Any]:
    """The commands of the experiments: the first of each kind is slow, the others are long."""
    # Nothing that is counted or timed at the published sizes can be made tiny.
    runs = [run for run in RUNS if run.command != "benchmark" and run.experiment != "lightgen_flops"]
    first: dict[tuple[Any, ...], Any] = {}
    for run in runs:
        first.setdefault(_kind(run), run)
    marks = {True: pytest.mark.slow, False: pytest.mark.long}
    return [
        pytest.param(run, marks=marks[run is first[_kind(run)]], id=f"{run.experiment}-{run.name}".strip("-"))
        for run in runs
    ]


@pytest.mark.parametrize("run", _tiny_runs())
def test_the_command_of_an_experiment_runs(
    run: Any,
    tiny_model: list[str],
    tiny_scenes: list[str],
    tmp_path: Path,
    run_here: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    tiny = tiny_scenes if _is_of_scenes(run) else tiny_model
    made, small = tmp_path / "made", _tiny(run, tiny, tmp_path / "cache")
    if run.script:
        script, *words = run.arguments(made, small)
        _module(Path(script)).main(words)
    else:
        _, module, *words = run.arguments(made)
        outcome = run_here(module.removeprefix("mar_accel."), *_merged(list(map(_few_values, words)), small))
        assert outcome.status == 0, outcome.stderr
    kept = run.kept_files()
    if run.figures:
        outcome = run_here("report", str(made), f"output_dir={tmp_path / 'report'}", "report.figures=false")
        assert outcome.status == 0, outcome.stderr
        if run.paired:
            _, _, _, *words, _ = run.reports()[-1]
            outcome = run_here("collect", str(made), *words, f"output_dir={tmp_path / 'report' / 'paired'}")
            assert outcome.status == 0, outcome.stderr
        made, kept = tmp_path / "report", {file for file in kept if not file.startswith("figures/")}
    # A correlation needs more rows than two.
    assert [f for f in kept if not f.startswith("correlation") and not (made / f).is_file()] == []


def _merged(words: list[str], small: list[str]) -> list[str]:
    """The words of the experiment, where the small values take the place of its own."""
    keys = {word.partition("=")[0] for word in small}
    return [*(word for word in words if word.partition("=")[0] not in keys), *small]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.experiment}-{run.name}".strip("-"))
def test_what_an_experiment_records_is_there(run: Any) -> None:
    there = [(FOLDER / run.experiment / file).is_file() for file in run.kept_files().values()]
    # A README says so if nothing is recorded; half a record is a mistake.
    assert there and (all(there) or not any(there)), run.kept_files()
    readme = (FOLDER / run.experiment / "README.md").read_text()
    says_so = f"{run.name} is not recorded yet" if run.name else "Not recorded yet"
    assert (says_so in readme.replace("`", "")) != any(there)


@pytest.mark.parametrize("name", EXPERIMENTS.names())
def test_a_readme_says_the_command_that_makes_what_lies_beside_it(name: str) -> None:
    assert f"python experiments/run.py {name}" in (FOLDER / name / "README.md").read_text()


def test_files_are_recorded_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept = tmp_path / "made", tmp_path / "kept" / "own"
    made.mkdir()
    kept.mkdir(parents=True)
    monkeypatch.setattr(EXPERIMENTS, "FOLDER", kept.parent)
    run = EXPERIMENTS.Run("own", recorded={"table.md": "table_own.md", "strips.png": "strips.png"})
    (made / "table.md").write_text("new")
    with pytest.raises(SystemExit, match=r"has no strips.png; correct own/experiment.yaml"):
        EXPERIMENTS.record(run, made)
    assert list(kept.iterdir()) == []
    (made / "strips.png").write_bytes(b"png")
    EXPERIMENTS.record(run, made)
    assert (kept / "table_own.md").read_text() == "new" and len(list(kept.iterdir())) == 2


def test_a_command_that_fails_ends_all_and_records_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EXPERIMENTS, "record", lambda *_: pytest.fail("recorded"))
    monkeypatch.setattr(EXPERIMENTS.Run, "arguments", lambda *_: ["-c", "raise SystemExit(75)"])
    with pytest.raises(SystemExit) as stop:
        EXPERIMENTS.run("ar_steps", [])
    assert stop.value.code == 75


def test_a_stop_reaches_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finishes its batch and asks for the same command again; run.py must not kill it."""
    child = """
import os, signal
def end(*_):
    raise SystemExit(75)
signal.signal(signal.SIGTERM, end)
os.kill(os.getppid(), signal.SIGTERM)
while True:
    signal.pause()
"""
    monkeypatch.setattr(EXPERIMENTS.Run, "arguments", lambda *_: ["-c", child])
    with pytest.raises(SystemExit) as stop:
        EXPERIMENTS.run("ar_steps", [])
    assert stop.value.code == 75


def test_costs_are_counted_for_rows_and_sweeps(
    tiny_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    monkeypatch.setitem(sys.modules, "run", EXPERIMENTS)
    costs = _module(FOLDER / "cost.py")
    table = EXPERIMENTS.Run(
        "own", "table", "evaluate_table", overrides=["table.rows=experiments/first_parity/rows.yaml"]
    )
    sweep = EXPERIMENTS.Run("own", "", "evaluate", sweep=True, overrides=["seed=0,1"])
    small = [*tiny_model, "dataset.num_images=10"]
    counted = costs.cost(table, [word for word in small if word != "sampler.num_iter=4"])
    assert (counted.name, counted.settings, counted.images) == ("own table", 2, 10)
    once, twice = costs.cost(sweep, [*small, "seed=0"]), costs.cost(sweep, small)
    assert (once.settings, twice.settings) == (1, 2)
    assert once.tflops > 0 and twice.tflops == pytest.approx(2 * once.tflops)
    assert costs.cost(EXPERIMENTS.Run("own", script="count.py")) is None


def test_the_embedded_model_is_replaced_with_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = _module(FOLDER / "scenes_training" / "pack.py")
    state = {"model.a": torch.zeros(1_260_000), "conditioner.encoder.b": torch.zeros(340_000)}
    torch.save({"state_dict": state, "global_step": 2500}, tmp_path / "last.ckpt")
    monkeypatch.setattr(pack, "MODEL", tmp_path / "model")
    monkeypatch.setattr(pack, "embedded_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(pack, "pack", lambda checkpoint, folder, averaged=True: folder.mkdir() or folder)
    monkeypatch.setattr(sys, "argv", ["pack.py", str(tmp_path / "last.ckpt")])
    pack.main()
    assert not (tmp_path / "scenes").exists()
    assert json.loads((tmp_path / "model" / "progress.json").read_text()) == {"steps": 2500}
    monkeypatch.setattr(pack, "MODEL", tmp_path / "again")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--ship"])
    pack.main()
    card = (tmp_path / "scenes" / "README.md").read_text()
    assert "2,500 steps of 32 images (80,000 images)" in card and "1.3 M, and 0.3 M in the text" in card


@pytest.mark.parametrize(
    "script", sorted(FOLDER.glob("**/*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_script_imports_what_there_is(script: Path) -> None:
    """The scripts are not in the package, so that a name that moves is easily forgotten here."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mar_accel"):
            module = importlib.import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                is_there = hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}")
                assert is_there, f"{node.module} has no {name}"


def test_an_unknown_experiment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "gtr_tabel"])
    with pytest.raises(SystemExit, match=r"gtr_tabel is no experiment; choose from .*gtr_table"):
        EXPERIMENTS.main()
    monkeypatch.setattr(sys, "argv", ["run.py", "gtr_table"])
    monkeypatch.chdir(FOLDER)
    with pytest.raises(SystemExit, match="start it in the folder of the repository"):
        EXPERIMENTS.main()
