"""Searches: the space, directions, what is not sampled, and a study that goes on after a kill."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import save_file
from torchmetrics import MeanMetric

from mar_accel.config.compose import compose_settings
from mar_accel.config.swept_values import num_values
from mar_accel.errors import ConfigError
from mar_accel.inference.session import Session
from mar_accel.metrics.directions import own_directions
from mar_accel.sweeps.cost import counted_tflops, flops_ratio
from mar_accel.sweeps.objectives import directions, objective_values

optuna = pytest.importorskip("optuna")

from mar_accel.sweeps.search import _only_search_of  # noqa: E402
from mar_accel.sweeps.search_space import example_choices, search_space  # noqa: E402
from mar_accel.sweeps.study import Study  # noqa: E402

CONF = Path(__file__).parents[2] / "conf"
Start = Callable[..., "subprocess.Popen[str]"]


class Sharp(MeanMetric):
    higher_is_better = True


def _space(*arguments: str) -> Any:
    return search_space(arguments, OverridesParser.create())


def test_the_space_is_written_in_hydras_sweep_syntax() -> None:
    fixed, space = _space(
        *("seed=3", "sampler=mar,gtr", "sampler.num_iter=range(16,65,8)", "a.b=int(interval(1,4))"),
        *("c.d=tag(log,interval(0.1,10.0))", "e.f=null,[1,2],'x y'", "g.h=range(0.5,1.1,0.25)"),
    )
    assert fixed == ["seed=3"]
    integer, real = optuna.distributions.IntDistribution, optuna.distributions.FloatDistribution
    assert space["sampler.num_iter"] == integer(16, 64, step=8)
    assert space["a.b"] == integer(1, 4) and space["c.d"] == real(0.1, 10.0, log=True)
    assert space["g.h"] == real(0.5, 1.0, step=0.25)
    assert space["e.f"].choices == ("null", "[1,2]", "'x y'")
    examples = example_choices(space)
    assert [own[0] for own in examples] == ["sampler=mar", "sampler=gtr"] and "a.b=1" in examples[0]
    with pytest.raises(ConfigError, match="needs keys to choose"):
        _space("seed=3")


def test_directions_are_those_in_which_a_metric_is_better() -> None:
    assert directions(["fid", "speedup"], None) == ["minimize", "maximize"]
    assert directions(["own"], ["maximize"]) == ["maximize"]
    own = own_directions(
        [{"scenes": {"_target_": f"{__name__}.Sharp"}, "sharp": {"_target_": f"{__name__}.Sharp"}}]
    )
    own |= own_directions(
        [{"gone": {"_target_": "nothing.Here"}, "off": None, "std": {"_target_": "torch.Tensor"}}]
    )
    assert own == {"scenes": True, "sharp": True}
    assert directions(["sharp", "sharp_mean"], None, own) == ["maximize", "maximize"]
    for objectives, given in ((["own"], None), (["fid"], ["up"]), (["fid", "psnr"], ["minimize"])):
        with pytest.raises(ConfigError, match="directions"):
            directions(objectives, given)
    assert objective_values(["a", "b"], {"a": 1, "b": 2.0}) == [1.0, 2.0]
    assert objective_values(["a", "b"], {"a": 1, "b": math.nan}) is None


def test_costs_are_counted_before_sampling(tiny_model: list[str]) -> None:
    plain = compose_settings(
        "generate", [*tiny_model, "sampler.num_iter=64", "sampler.num_diffusion_steps=100"]
    )
    fewer = compose_settings("generate", [*tiny_model, "sampler.num_iter=16"])
    assert flops_ratio(plain) == pytest.approx(1) and flops_ratio(fewer) > 3  # type: ignore[operator]
    adaptive = compose_settings("generate", [*tiny_model, "cache=lazymar", "cache/refresh=adaptive"])
    assert counted_tflops(adaptive) is None, "it decides while it samples"


def test_a_study_goes_on_and_asks_again_for_what_was_killed(tmp_path: Path) -> None:
    _, space = _space("a=range(0,100)")

    def study(**changes: Any) -> Study:
        arguments = {"directions": ["minimize"], "space": space, "sampler": "tpe", "seed": 0} | changes
        return Study(tmp_path / "s.db", "s", **arguments)

    first = study()
    done, abandoned = first.ask(), first.ask()
    first.tell(done, [1.0], content="x")
    again = study()
    assert [trial.user_attrs["content"] for trial in again.finished] == ["x"]
    assert again.ask().params == abandoned.params
    assert again.ask().params != done.params, "not the same random numbers again"
    for changes in ({"directions": ["maximize"]}, {"space": _space("a=range(0,99)")[1]}):
        with pytest.raises(ConfigError, match="another search space"):
            study(**changes)
    with pytest.raises(ConfigError, match=r"other settings \(dataset.num_images=9\); give this one a name"):
        study(fixed=["dataset.num_images=9"])
    with pytest.raises(ConfigError, match="sampler=grid is unknown; choose one of tpe"):
        study(sampler="grid")


@pytest.mark.parametrize("content", [b"abc" * 5000, None], ids=["damaged", "folder"])
def test_a_study_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"s\.db cannot be used as a study \(\w+\); remove it if it is damaged"
    ):
        Study(file, "s", ["minimize"], _space("a=range(0,9)")[1], "tpe", 0)


def test_a_study_has_one_search_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "studies" / "s.db"
    refused = pytest.raises(ConfigError, match=r"s\.db is in use by another search")
    with _only_search_of(file), refused, _only_search_of(file):
        pass
    with _only_search_of(file):
        pass


def test_a_range_is_the_one_that_a_grid_lists() -> None:
    for text in ("range(0,10,3)", "range(10,0,-3)", "range(0.5,1.1,0.25)", "range(1,0,-0.25)"):
        override = OverridesParser.create().parse_override(f"a={text}")
        (own,) = _space(f"a={text}")[1].values()
        values: list[Any] = list(override.sweep_iterator())
        assert num_values(override) == len(values), text
        assert (own.low, own.high, own.step) == (min(values), max(values), abs(values[1] - values[0]))


def _arguments(tiny_model: list[str], folder: Path, trials: int) -> list[str]:
    return [
        *("-m", *tiny_model, "dataset.num_images=1", f"hydra.sweep.dir={folder}"),
        *("hydra/sweeper=search", f"hydra.sweeper.n_trials={trials}", "cache=none,lazymar"),
        *("sampler.num_iter=range(2,7)", "cache.token.ratios=interval(0.1,0.9)"),
    ]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_runs_every_setting_once_and_none_that_costs_too_much(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    limit = counted_tflops(compose_settings("generate", [*tiny_model, "sampler.num_iter=5"]))
    arguments = [*_arguments(tiny_model, tmp_path / "s", 4), f"hydra.sweeper.max_tflops={limit}"]
    outcome = run_here("generate", *arguments)
    assert outcome.status == 0 and "best trial of 4" in outcome.stdout, outcome.stderr
    rows = _rows(tmp_path / "s")
    assert len(rows) == 4 and len({row["folder"] for row in rows}) == 4
    assert not any(row["cache"] == "none" and row["sampler.num_iter"] == "6" for row in rows)
    # More trials go on with the study, whose finished trials keep their rows.
    outcome = run_here("generate", *[a.replace("n_trials=4", "n_trials=5") for a in arguments])
    assert "1 done, 4 skipped" in outcome.stdout, outcome.stdout + outcome.stderr
    outcome = run_here("generate", *_arguments(tiny_model, tmp_path / "s", 4), "cache.token.ratois=0.1,0.2")
    assert outcome.status == 2 and "cache.token.ratois is not a key" in outcome.stderr


def test_a_search_does_not_go_on_with_other_weights(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    state = Session.from_settings(compose_settings("generate", tiny_model)).model.state_dict()
    for factor in (1.0, 1.1):
        save_file({key: value * factor for key, value in state.items()}, weights)
        own = [a for a in tiny_model if not a.startswith("model.weights")] + [f"model.weights={weights}"]
        outcome = run_here("generate", *_arguments(own, tmp_path / "s", 1))
        if factor == 1.0:
            assert outcome.status == 0, outcome.stderr
    assert outcome.status == 2
    assert "has a study of other settings (the content of weights); give this one" in outcome.stderr


def test_a_search_whose_runs_have_no_objective_ends(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = [*_arguments(tiny_model, tmp_path / "s", 30), "dataset.num_images=2"]
    arguments += ["evaluate.objective=psnr", "evaluate.baseline=none", "evaluate.timing_rounds=0"]
    arguments += ["evaluate.profile=false", "features=none", "reference=none"]
    outcome = run_here("evaluate", *arguments)
    assert outcome.status == 2 and "of the last one: it has no psnr" in outcome.stderr, outcome.stderr
    assert len(list((tmp_path / "s").glob("*/metrics.json"))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "hparams_search").glob("*.yaml")))
def test_a_ready_search_runs(name: str, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = [
        *(word for word in tiny_model if not word.startswith("sampler.")),
        *(f"hparams_search={name}", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path / 's'}"),
        *("dataset.num_images=4", "reference.augmentations=0", f"reference.cache_dir={tmp_path / 'cache'}"),
        *("sampler.num_iter=range(2,5)", "sampler.num_diffusion_steps=2,3"),
    ]
    outcome = run_here("evaluate", "-m", *arguments)
    assert outcome.status == 0, outcome.stderr
    assert f"{'Pareto set' if name == 'pareto' else 'best trial'} of 2" in outcome.stdout
    assert len(_rows(tmp_path / "s")) == 2


@pytest.mark.long
def test_thirty_trials_killed_at_twelve_are_thirty_and_none_twice(
    start: Start, tiny_model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    arguments = _arguments(tiny_model, folder, 30)
    process = start(tmp_path, "generate", *arguments)
    while process.poll() is None and len(list(folder.glob("*/run.json"))) < 12:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = {file: file.stat().st_mtime_ns for file in folder.glob("*/run.json")}
    process = start(tmp_path, "generate", *arguments)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout[-2000:] + stderr[-4000:]
    assert all(file.stat().st_mtime_ns == time for file, time in made.items())
    (file,) = (folder / "studies").glob("*.db")
    study = optuna.load_study(study_name=file.stem, storage=f"sqlite:///{file}")
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(finished) == 30 == len(list(folder.glob("*/run.json")))
    assert max(Counter(trial.user_attrs["folder"] for trial in finished).values()) == 1
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert len(_rows(folder)) == 30 and "best trial of 30" in stdout
