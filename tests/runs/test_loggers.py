"""What loggers hold of a run of generate, read back: config, throughput, sample grid."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from mar_accel.config.compose import compose_settings
from mar_accel.config.hydra_context import our_hydra
from mar_accel.errors import ConfigError
from mar_accel.runs.generation import generate
from mar_accel.runs.loggers import open_logger, run_name
from mar_accel.runs.run_log import RunLog


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
    axes: dict[str, Any] = {}
    for entry in wandb_records(tmp_path):
        kind = entry.WhichOneof("record_type")
        if kind == "metric":
            axes[entry.metric.name or entry.metric.glob_name] = entry.metric
        if kind == "run":
            assert not history and entry.run.job_type == "generate", "the run starts before its results"
            tags = list(entry.run.tags)
            config |= {item.key: json.loads(item.value_json) for item in entry.run.config.update}
        elif kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in entry.config.update if item.key}
        elif kind == "history":
            for item in entry.history.item:
                history["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert {"mine", "digits"} <= set(tags)
    # Curves over AR steps have an axis of their own.
    assert axes["ar_step/*"].step_metric == "ar_step/index"
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


def test_a_failing_logger_is_a_warning(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there: list[bool] = []

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        there.append((tmp_path / "run.json").is_file())
        raise RuntimeError("no space for metrics")

    monkeypatch.setattr(CSVLogger, "log_metrics", broken)
    record = _run(tmp_path, tiny_model, "logger=csv")
    assert record["num_images"] == 4
    # The results were on disk before the logger heard of them, and it was asked once.
    assert there == [True]
    warning = capsys.readouterr().err
    assert "warning: the logger has failed (no space for metrics); all results are in" in warning


def test_a_failed_run_of_wandb_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next job of a sweep would go on with it."""
    closed: list[int] = []

    class Failing(WandbLogger):
        def __init__(self) -> None:
            pass

        @property
        def experiment(self) -> Any:
            return SimpleNamespace(finish=lambda exit_code: closed.append(exit_code), define_metric=broken)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the server is gone")

    log = RunLog(Failing(), compose_settings("generate", [f"output_dir={tmp_path}"]))
    with log:
        log.start()
    assert log.failed and closed == [0]


def test_the_run_starts_before_the_first_image(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []
    log_hyperparams = CSVLogger.log_hyperparams

    def counted(self: Any, params: Any) -> None:
        images.append(len(list((tmp_path / "images").glob("*.png"))))
        log_hyperparams(self, params)

    monkeypatch.setattr(CSVLogger, "log_hyperparams", counted)
    _run(tmp_path, tiny_model, "logger=csv")
    assert images == [0]


class _Recorded(CSVLogger):
    """A logger that remembers how it ended."""

    ended: str = ""

    def finalize(self, status: str) -> None:
        self.ended = status


@pytest.mark.parametrize("fails", [False, True])
def test_a_crash_is_told_to_the_logger(tiny_model: list[str], tmp_path: Path, fails: bool) -> None:
    settings = compose_settings("generate", [*tiny_model, f"output_dir={tmp_path}"])
    logger = _Recorded(tmp_path)
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext(), RunLog(logger, settings) as log:
        log.start()
        if fails:
            raise KeyboardInterrupt
    assert logger.ended == ("failed" if fails else "success")


def test_a_refused_config_starts_no_run(tiny_model: list[str], tmp_path: Path) -> None:
    settings = compose_settings("generate", [*tiny_model, f"output_dir={tmp_path}"])
    logger = _Recorded(tmp_path)
    with pytest.raises(ConfigError), RunLog(logger, settings):
        raise ConfigError("seed must be ≥ 0.")
    assert logger.ended == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "mar"),
        (["sampler=gtr", "cache=lazymar", "cache.token.ratios=0.1"], "gtr+lazymar cache.token.ratios=0.1"),
        (["cache=head", "dataset.num_images=4", "trainer.batch_size=2", "output_dir=x"], "mar+head"),
        (["sampler/order=raster", "seed=3", "evaluate.lpips=false"], "mar sampler/order=raster seed=3"),
    ],
)
def test_names_of_runs_can_be_read(overrides: list[str], name: str) -> None:
    settings = compose_settings("evaluate", overrides)
    with our_hydra():
        config = compose("evaluate", overrides=overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    try:
        assert run_name(settings) == name
    finally:
        HydraConfig.instance().cfg = None


@pytest.mark.parametrize("mode", ["RUN", "MULTIRUN"])
def test_a_run_of_wandb_says_what_and_where_it_is(mode: str, tmp_path: Path, monkeypatch: Any) -> None:
    given: dict[str, Any] = {}

    def build(name: str, node: dict[str, Any], kind: type, /, **arguments: Any) -> None:
        given.update({**node, **arguments})

    monkeypatch.setattr("mar_accel.runs.loggers.build_node", build)
    own = ["logger=wandb", "logger.entity=my-team", "logger.notes=a long text", "cache=lazymar"]
    overrides = [*own, "cache.token.ratios=0.1", f"output_dir={tmp_path}"]
    settings = compose_settings("evaluate", overrides)
    hydra_keys = [f"hydra.mode={mode}", f"hydra.sweep.dir={tmp_path}/multirun/evaluate"]
    with our_hydra():
        config = compose("evaluate", overrides=[*overrides, *hydra_keys], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    try:
        open_logger(settings, "an-id")
    finally:
        HydraConfig.instance().cfg = None
    assert given["name"] == "mar+lazymar cache.token.ratios=0.1" and given["job_type"] == "evaluate"
    assert given["group"] == (None if mode == "RUN" else "multirun/evaluate")
    assert (given["entity"], given["notes"]) == ("my-team", "a long text")
    assert (given["id"], given["resume"]) == ("an-id", "allow") and "cache=lazymar" in given["tags"]


def test_hparams_of_tensorboard_show_the_results(tiny_model: list[str], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams import plugin_data_pb2

    record = _run(tmp_path, tiny_model, "logger=tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("seconds_per_image")[-1].value == pytest.approx(
        record["seconds_per_image"], rel=1e-5
    )
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    names = {metric.name.tag for metric in shown}
    assert {"seconds_per_image", "images_per_second"} <= names and "hp_metric" not in names


@pytest.mark.parametrize("command", ["generate", "evaluate", "train"])
def test_online_logging_without_a_login_is_refused_before_anything_is_sampled(
    command: str, run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    own = [] if command == "train" else tiny_model
    arguments = [*own, "logger=wandb", "logger.offline=false", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here(command, *arguments)
    assert (
        outcome.status == 2 and "logger.offline=false needs a login at W&B; run wandb login" in outcome.stderr
    )
    assert not (tmp_path / "run").exists()


def test_a_server_that_refuses_the_key_is_named_before_anything_is_sampled(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(prompt: bool) -> bool:
        raise ConnectionError("no route\nto host")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse)
    arguments = ["logger=wandb", "logger.offline=false", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("generate", *tiny_model, *arguments)
    assert outcome.status == 2 and "W&B cannot be reached, or refuses the key (no route)" in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["generate", "evaluate", "train"])
def test_a_folder_of_a_logger_that_cannot_be_written_is_refused(
    command: str, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    own = [] if command == "train" else tiny_model
    arguments = [*own, "logger=csv", "logger.save_dir=/proc/x", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here(command, *arguments)
    assert outcome.status == 2 and "logger.save_dir=/proc/x cannot be written" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_logger_that_fails_at_the_end_costs_nothing(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(CSVLogger, "log_hyperparams", fail)
    arguments = ["logger=csv", "dataset.num_images=2", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("generate", *tiny_model, *arguments)
    assert outcome.status == 0 and (tmp_path / "run" / "run.json").is_file()
    assert "warning: the logger has failed (the server is gone); all results are in" in outcome.stderr
