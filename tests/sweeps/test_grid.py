"""Grids: what combinations stand for, conditions, rows from a file, and one table per sweep."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from mar_accel.config.hydra_context import our_hydra
from mar_accel.config.rows import load_rows
from mar_accel.errors import ConfigError
from mar_accel.runs.gpus import GPUS_VARIABLE, take_gpu
from mar_accel.sweeps.combinations import PlannedRun, plan_runs
from mar_accel.sweeps.conditions import Condition, parse_conditions
from mar_accel.sweeps.grid import combinations
from mar_accel.sweeps.job_config import JobConfig
from mar_accel.sweeps.run_folders import read_runs


@pytest.fixture(scope="module")
def compose() -> Iterator[Any]:
    with our_hydra():
        loader = GlobalHydra.instance().config_loader()
        yield lambda overrides: JobConfig(
            loader.load_configuration("generate", list(overrides), RunMode.MULTIRUN, from_shell=False)
        )


def _plan(compose: Any, *typed: str, rows: str | None = None, **conditions: Any) -> list[PlannedRun]:
    parsed = {name: parse_conditions(value, f"sweep.{name}") for name, value in conditions.items()}
    named = None if rows is None else load_rows(rows, "sweep.rows")
    return plan_runs(combinations(typed, OverridesParser.create(), named), compose, "generate", **parsed)


def _overrides(runs: Sequence[PlannedRun]) -> list[str]:
    return [" ".join(run.overrides) for run in runs]


def test_a_key_is_left_out_where_a_combination_lacks_it_and_equal_runs_are_one(compose: Any) -> None:
    runs = _plan(compose, "cache=none,lazymar", "cache.token.ratios=0.1,0.2", "seed=1")
    assert _overrides(runs) == [
        "cache=none seed=1",
        "cache=lazymar cache.token.ratios=0.1 seed=1",
        "cache=lazymar cache.token.ratios=0.2 seed=1",
    ]
    assert runs[0].left_out == ("cache.token.ratios=0.1",)
    assert runs[0].equal == (("cache=none", "seed=1", "cache.token.ratios=0.2"),)
    # Parts and deletions, too.
    runs = _plan(compose, "cache=none,head", "cache/refresh=fixed,adaptive")
    assert len(runs) == 3 and runs[0].left_out == ("cache/refresh=fixed",)
    # Equal by value, and by what never counts.
    assert len(_plan(compose, "sampler.guidance_scale=4,4.0,5", "logger=none,csv")) == 2


def test_a_key_that_no_combination_has_is_a_typo(compose: Any) -> None:
    for typed in ("cache.token.ratois=0.1,0.2", "cache.token.ratois=0.1", "sampler.num_itre=4,5"):
        with pytest.raises(ConfigError, match="is not a key of the config"):
            _plan(compose, "cache=none,lazymar", typed)
    # The key exists, a key inside its value does not.
    (good, bad) = _plan(compose, "cache=none,lazymar", "cache.token={unknown:1}")
    assert good.left_out and "cache.token.unknown is not a key" in str(bad.reason)


def test_a_value_that_is_refused_fails_its_own_run_only(compose: Any) -> None:
    runs = _plan(compose, "sampler=mar,fast,gtr")
    assert [run.reason is None for run in runs] == [True, False, True]
    assert str(runs[1].reason).startswith("sampler=fast is unknown; choose one of")
    with pytest.raises(ConfigError, match="sampler=fast is unknown"):
        _plan(compose, "sampler=fast,faster")


def test_conditions_choose_combinations(compose: Any) -> None:
    typed = ("sampler=mar,gtr", "cache=none,lazymar", "seed=0,1")

    def chosen(**conditions: Any) -> list[str]:
        return _overrides(_plan(compose, *typed, **conditions))

    assert chosen(only="sampler=mar seed<1") == [
        "sampler=mar cache=none seed=0",
        "sampler=mar cache=lazymar seed=0",
    ]
    assert len(chosen(skip="cache=none seed>0")) == 6
    assert len(chosen(skip=["cache=none seed>0", "sampler=gtr,halton"])) == 3
    assert chosen(only="sampler.num_diffusion_steps=50 cache!=none", skip="seed=1") == [
        "sampler=gtr cache=lazymar seed=0"
    ], "keys of the config that were not typed"
    assert len(chosen(only="cache.token.prune_block!=3")) == 8, "a key that a run lacks is not equal"
    for conditions, message in (
        ({"only": "samplr=mar"}, "tests samplr .*which no run has"),
        ({"only": "seed=7"}, "leave no run"),
        ({"skip": "seed"}, r"sweep\.skip=seed cannot be read at seed"),
        ({"skip": "seed<x"}, "cannot be read"),
        ({"skip": "seed=0,seed=1"}, "cannot be read at seed=0,seed=1; write KEY=VALUE,VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            chosen(**conditions)


def test_condition_on_numbers_and_names() -> None:
    values = {"a": "0.10", "b": True, "c": None, "d": "'x'", "f": [[0, 1.0], [2, 0.5]]}.get
    for text, holds in (
        *(("a=0.1", True), ("a=.2,.1", True), ("a!=0.1", False), ("b=true", True), ("c=null", True)),
        *(("d=x a<=0.1", True), ("e=1", False), ("e!=1", True), ("e<1", False), ("b<2", False)),
        *(("f=[[0,1.0],[2,0.5]]", True), ("f=0.1,[[0, 1], [2, .5]] b=true", True), ("f!=[[0,1]]", True)),
    ):
        assert Condition.parse(text, "k").holds(values) is holds, text


def test_rows_of_a_file_are_combined_with_the_grid(compose: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.yaml"
    rows.write_text(
        "- {name: plain, overrides: [sampler=mar]}\n"
        "- {name: fast, overrides: [sampler=gtr, 'cache.token=ratio,null', cache=lazymar]}\n"
        "- {name: again, overrides: [cache=none]}\n"
    )
    runs = _plan(compose, "seed=0,1", "cache=none", rows=str(rows), skip="row=fast seed=1")
    assert [(run.row, " ".join(run.overrides)) for run in runs] == [
        ("plain", "seed=0 cache=none sampler=mar"),
        ("plain", "seed=1 cache=none sampler=mar"),
        ("fast", "seed=0 sampler=gtr cache.token=ratio cache=lazymar"),
        ("fast", "seed=0 sampler=gtr cache.token=null cache=lazymar"),
    ]
    assert [run.equal[0][0] for run in runs[:2]] == ["row=again", "row=again"]
    with pytest.raises(ConfigError, match=r"sweep\.rows=.* is not a file"):
        _plan(compose, rows=str(tmp_path / "none.yaml"))


def _table(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_a_grid_runs_what_makes_sense_and_keeps_its_table(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, "dataset.num_images=1", f"hydra.sweep.dir={tmp_path / 's'}"]
    grid = ["cache=none,lazymar", "cache.token.ratios=0.1,0.2"]
    outcome = run_here("generate", *sweep, *grid)
    assert outcome.status == 0 and "3 done" in outcome.stdout, outcome.stderr
    assert "run 0 is also cache.token.ratios=0.2: equal runs are run once." in outcome.stdout
    assert "run 0 does not have cache.token.ratios, which is left out there." in outcome.stdout
    (table,) = (tmp_path / "s" / "tables").glob("*.csv")
    assert [row["cache.token.ratios"] for row in _table(table)] == ["", "0.1", "0.2"]
    before = table.read_text()
    # Another sweep has a table of its own. A value that is refused fails its own run.
    outcome = run_here("generate", *sweep, "sampler=mar,fast", "sweep.name=other", "cache.token.ratios=0.1")
    assert outcome.status == 2, "cache=none alone has no ratios"
    outcome = run_here(
        "generate", *sweep, "cache=fast,none,lazymar", "sweep.name=other", "cache.token.ratios=0.1"
    )
    assert outcome.status == 2 and "run 0 failed: cache=fast is unknown" in outcome.stdout
    assert "2 skipped, 1 failed" in outcome.stdout and table.read_text() == before
    other = _table(tmp_path / "s" / "tables" / "other.csv")
    assert [(row["run"], row["status"]) for row in other] == [
        ("0", "failed"),
        ("1", "skipped"),
        ("2", "skipped"),
    ]
    assert _table(tmp_path / "s" / "sweep.csv") == other
    record = json.loads((tmp_path / "s" / "tables" / "other.json").read_text())
    assert [bool(run["folder"]) for run in record["runs"]] == [False, True, True]
    assert (
        len(read_runs([tmp_path / "s" / "tables" / "other.json"])[0])
        == 2
        < len(read_runs([tmp_path / "s"])[0])
    )


def test_a_mistyped_key_stops_a_sweep_before_its_first_run(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, "dataset.num_images=1", f"hydra.sweep.dir={tmp_path / 's'}"]
    outcome = run_here("generate", *sweep, "cache=none,lazymar", "cache.token.ratois=0.1")
    assert outcome.status == 2 and "cache.token.ratois is not a key" in outcome.stderr
    assert not list((tmp_path / "s").glob("*"))
    outcome = run_here(
        "generate", *tiny_model, "sweep.skip=seed=0 cache=none,head", f"output_dir={tmp_path / 'run'}"
    )
    assert outcome.status == 2 and "add -m" in outcome.stderr and not (tmp_path / "run").exists()


def test_gpus_are_dealt_in_turn_to_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for process in range(5):
        monkeypatch.setattr("mar_accel.runs.gpus.os.getpid", lambda process=process: process)
        # The variables of the process before are inherited.
        environment = {GPUS_VARIABLE: "3,5,GPU-x", "MAR_ACCEL_OWN_GPU": f"{process - 1}:7"}
        first = take_gpu(tmp_path, environment)
        assert take_gpu(tmp_path, environment) == first == environment["CUDA_VISIBLE_DEVICES"]
        taken.append(first)
    assert taken == ["3", "5", "GPU-x", "3", "5"]
    assert take_gpu(tmp_path, {}) is None
