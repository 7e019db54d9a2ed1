"""The examples, from a folder outside the checkout: modules, console scripts, every preset they fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SAMPLERS = sorted(path.stem for path in (ROOT / "conf" / "sampler").glob("*.yaml"))
FEW = ["dataset.num_images=2", "trainer.batch_size=2"]


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example that a test names, as working directory."""
    folder = tmp_path / request.param
    shutil.copytree(ROOT / "examples" / request.param, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("example", ["order_and_step_sizes"], indirect=True)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_order_by_its_class_on_every_preset(
    sampler: str, example: Path, run_here: Any, tmp_path: Path
) -> None:
    """Keys of the preset's own class that the order does not take are left out."""
    arguments = [f"sampler={sampler}", "sampler.order._target_=spiral.SpiralOrder", "plan.flops=false"]
    outcome = run_here("plan", *arguments, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.stderr
    assert _record(tmp_path / "run")["config"]["sampler"]["order"] == {"_target_": "spiral.SpiralOrder"}


@pytest.mark.parametrize("example", ["order_and_step_sizes"], indirect=True)
@pytest.mark.parametrize("cache", ["none", "lazymar"])
def test_a_sampler_of_both(
    cache: str, example: Path, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = ["--config-dir", "conf", *tiny_model, *FEW, "sampler=spiral", f"cache={cache}"]
    outcome = run_here("generate", *arguments, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.stderr
    assert _record(tmp_path / "run")["num_images"] == 2


@pytest.mark.parametrize("example", ["refresh"], indirect=True)
@pytest.mark.parametrize("sampler", ["mar", "gtr"])
def test_a_refresh(sampler: str, example: Path, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    """The YAML inherits lazymar and names another class: keys of the inherited refresh are left out."""
    arguments = ["--config-dir", "conf", *tiny_model, *FEW, "cache=doubling", f"sampler={sampler}"]
    outcome = run_here("generate", *arguments, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.stderr
    refresh = _record(tmp_path / "run")["config"]["cache"]["refresh"]
    assert refresh == {"_target_": "doubling.DoublingRefresh", "factor": 2.0}


@pytest.mark.parametrize("example", ["guidance"], indirect=True)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_guidance_by_name_on_every_preset(
    sampler: str, example: Path, run_here: Any, tmp_path: Path
) -> None:
    """A part is found by its name in every folder that Hydra searches."""
    arguments = [
        "--config-dir",
        "conf",
        f"sampler={sampler}",
        "sampler.guidance_schedule=ramp",
        "plan.flops=false",
    ]
    outcome = run_here("plan", *arguments, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.stderr
    rows = (tmp_path / "run" / "plan.csv").read_text().splitlines()
    assert float(rows[1].split(",")[3]) == 1 and float(rows[-1].split(",")[3]) > 3


@pytest.mark.parametrize("example", ["metric"], indirect=True)
def test_a_metric(example: Path, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = ["--config-dir", "conf", *tiny_model, "dataset.num_images=12", "trainer.batch_size=5"]
    arguments += ["metrics=ink", "features=none", "evaluate.baseline=none", "evaluate.profile=false"]
    folder = tmp_path / "run"
    outcome = run_here("evaluate", *arguments, f"output_dir={folder}", "evaluate.objective=ink_mean")
    assert outcome.status == 0, outcome.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["ink_mean"] < 1 and metrics["ink_std"] > 0 and "ink_mean" in outcome.stdout
    assert metrics["fid"] is None and metrics["num_images"] == 12
    # The same where every image is there already.
    outcome = run_here("evaluate", *arguments, f"output_dir={folder}", "evaluate.resume=true")
    assert outcome.status == 0, outcome.stderr
    again = json.loads((folder / "metrics.json").read_text())
    assert again["ink_mean"] == pytest.approx(metrics["ink_mean"])


README_COMMANDS = {
    "order_and_step_sizes": ["generate", "sampler=spiral"],
    "refresh": ["generate", "cache=doubling"],
    "guidance": ["generate", "sampler.guidance_schedule=ramp"],
    "metric": ["evaluate", "metrics=ink", "features=none", "evaluate.baseline=none"],
}


# Each is started in one way by CI, and in both by make test-long.
def _is_in_ci(way: str, folder: str) -> bool:
    return (way == "script") == (folder == "guidance")


@pytest.mark.parametrize(
    ("way", "folder"),
    [
        pytest.param(*start, marks=pytest.mark.slow if _is_in_ci(*start) else pytest.mark.long)
        for start in product(("module", "script"), README_COMMANDS)
    ],
)
def test_the_commands_of_the_readme(way: str, folder: str, tiny_model: list[str], tmp_path: Path) -> None:
    name, *overrides = README_COMMANDS[folder]
    script = Path(sys.executable).with_name(f"mar-{name}")
    if way == "script" and not script.is_file():
        pytest.skip("the package is not installed here")
    shutil.copytree(ROOT / "examples" / folder, tmp_path / folder)
    start = [str(script)] if way == "script" else [sys.executable, "-m", f"mar_accel.{name}"]
    arguments = ["--config-dir", "conf", *tiny_model, *FEW, *overrides, "output_dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, *arguments], cwd=tmp_path / folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / folder / "run" / "run.json").is_file()


def test_examples_are_one_file_and_one_yaml_or_two() -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    for folder in sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir()):
        assert len(list(folder.rglob("*.py"))) == 1 and len(list(folder.rglob("*.yaml"))) == 1, folder
        assert f"]({folder.name}/" in text, f"{folder.name} is not in examples/README.md"
