"""Sweeps: no speed is shown for conditions it was not measured under, and code of one's own counts."""

from __future__ import annotations

import csv
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from mar_accel.runs import attempt, record, sweep_summary

EVALUATION = [
    *("dataset.num_images=6", "reference.augmentations=0", "evaluate.fidelity_images=2"),
    *("evaluate.timing_rounds=1", "evaluate.profile=false", "evaluate.baseline_sampler.num_iter=5"),
    "evaluate.baseline_sampler.num_diffusion_steps=3",
]


def _rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_batch_size_is_timed_and_images_are_shared(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = [
        "-m",
        *tiny_model,
        *EVALUATION,
        f"reference.cache_dir={tmp_path}",
        f"hydra.sweep.dir={tmp_path}/s",
    ]
    outcome = run_here("evaluate", *sweep, "trainer.batch_size=2,3")
    assert outcome.status == 0 and "2 done" in outcome.stdout, outcome.stderr
    rows = _rows(tmp_path / "s")
    assert [row["batch_size"] for row in rows] == ["2", "3"]
    assert all(float(row["speedup"]) > 0 and float(row["latency_s_per_image"]) > 0 for row in rows)
    assert rows[0]["speedup"] != rows[1]["speedup"] and rows[0]["fid"] == rows[1]["fid"]
    first, second = (tmp_path / "s" / row["folder"] for row in rows)
    for image in (first / "images").iterdir():
        assert image.samefile(second / "images" / image.name), "one image identity, one image"
    assert "all images exist" in (second / "metrics.json").read_text()
    # The same command again measures nothing again, and each row keeps its own speed.
    outcome = run_here("evaluate", *sweep, "trainer.batch_size=2,3")
    assert outcome.status == 0 and "2 skipped" in outcome.stdout
    assert [row["speedup"] for row in _rows(tmp_path / "s")] == [row["speedup"] for row in rows]


def test_a_skipped_run_shows_no_speed_of_other_conditions(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, "dataset.num_images=4", f"hydra.sweep.dir={tmp_path}"]
    run_here("generate", *sweep, "seed=0,1", "trainer.batch_size=2")
    assert all(row["seconds_per_image"] for row in _rows(tmp_path))
    outcome = run_here("generate", *sweep, "seed=0,1", "trainer.batch_size=4")
    assert "2 skipped" in outcome.stdout
    assert "run 0, 1 was timed under conditions other than requested" in outcome.stdout
    assert not any("seconds_per_image" in row for row in _rows(tmp_path))
    # Asked for as it was measured, it is shown.
    run_here("generate", *sweep, "seed=0,1", "trainer.batch_size=2")
    assert all(row["seconds_per_image"] for row in _rows(tmp_path))


def test_a_sweep_says_which_code_and_machine_made_its_runs(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["-m", *tiny_model, "dataset.num_images=1", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert "note:" not in run_here("generate", *sweep).stdout
    monkeypatch.setattr(record, "git_revision", lambda: "another")
    outcome = run_here("generate", *sweep)
    assert "2 skipped" in outcome.stdout and "run 0, 1 was made and timed with revision " in outcome.stdout
    # The file and the table mark the speeds, too.
    assert "*" in outcome.stdout.split("note:")[0]
    assert all("revision=" in row["timed_with"] and row["seconds_per_image"] for row in _rows(tmp_path))
    assert sweep_summary.environment is record.environment is attempt.environment


def test_an_edited_class_of_ones_own_is_another_run(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own, helper = tmp_path / "own_order.py", tmp_path / "own_helper.py"
    helper.write_text("REVERSED = False\n")
    text = (
        "import torch\nimport own_helper\nfrom mar_accel.sampling.orders import RasterOrder\n"
        "class Own(RasterOrder):\n"
        "    def permutation(self, grid, generator):\n"
        "        order = super().permutation(grid, generator)\n"
        "        return order.flip(0) if own_helper.REVERSED else order\n"
    )
    own.write_text(text)
    sweep = ["-m", *tiny_model, "dataset.num_images=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    sweep += ["sampler.order._target_=own_order.Own", "seed=0,1"]

    def run() -> str:
        for name in ("own_order", "own_helper"):
            sys.modules.pop(name, None)
        outcome = run_here("generate", *sweep)
        assert outcome.status == 0, outcome.stderr
        return outcome.stdout

    assert "2 done" in run() and "2 skipped" in run()
    helper.write_text("REVERSED = True\n")  # a module that the class imports counts, too
    assert "2 done" in run() and "2 skipped" in run()
    own.write_text(text + "# edited\n")
    assert "2 done" in run()
    monkeypatch.delitem(sys.modules, "own_order")
    monkeypatch.delitem(sys.modules, "own_helper")


def test_an_optimising_sweeper_gets_a_number(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweeper that keeps what the jobs return, as Optuna's does."""
    plugins = tmp_path / "hydra_plugins"
    plugins.mkdir()
    (plugins / "keeping_sweeper.py").write_text(
        "from hydra._internal.core_plugins.basic_sweeper import BasicSweeper\n"
        "RETURNED = []\n"
        "class Keeping(BasicSweeper):\n"
        "    def sweep(self, arguments):\n"
        "        results = super().sweep(arguments)\n"
        "        RETURNED.extend(float(job.return_value) for batch in results for job in batch)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sweeper_class = import_module("hydra_plugins.keeping_sweeper").Keeping
    # A new process finds it by itself; in this one Hydra has looked for plugins already.
    Plugins.instance().register(sweeper_class)
    sweeper = ["hydra.sweeper._target_=hydra_plugins.keeping_sweeper.Keeping"]
    sweep = [
        "-m",
        *tiny_model,
        *EVALUATION,
        f"reference.cache_dir={tmp_path}",
        f"hydra.sweep.dir={tmp_path}/s",
    ]
    arguments = [*sweep, *sweeper, "evaluate.objective=psnr", "sampler.num_iter=3,4,999"]
    returned = import_module("hydra_plugins.keeping_sweeper").RETURNED
    for skipped in (False, True):
        outcome = run_here("evaluate", *arguments)
        assert outcome.status == 2 and ("2 skipped" if skipped else "2 done") in outcome.stdout, (
            outcome.stderr
        )
        metrics = [float(row["psnr"]) for row in _rows(tmp_path / "s") if row["psnr"]]
        assert returned[-3:-1] == metrics and math.isnan(returned[-1]), "the failed run has none"


def test_a_run_folder_given_to_hydra_is_the_run_folder(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    outcome = run_here("generate", *tiny_model, "dataset.num_images=1", f"hydra.run.dir={folder}")
    assert outcome.status == 0 and (folder / "images" / "000000.png").is_file()


def test_limited_batches_lower_the_number_of_images(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = [*tiny_model, "dataset.num_images=7", "trainer.batch_size=2"]
    for limit, images in (("1", 2), ("2", 4), ("0.5", 4), ("1.0", 7), ("9", 7)):
        folder = tmp_path / limit
        limited = f"trainer.limit_predict_batches={limit}"
        assert run_here("generate", *arguments, limited, f"output_dir={folder}").status == 0
        assert len(list((folder / "images").iterdir())) == images, limit
        recorded = json.loads((folder / "run.json").read_text())
        assert recorded["num_images"] == images and recorded["config"]["dataset"]["num_images"] == 7
