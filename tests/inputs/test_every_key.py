"""Every key of every command's config with wrong values: refused in one sentence, or accepted for a reason.

A key that is new is tried without being listed. One that takes a wrong value has to say why in ACCEPTED.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from mar_accel.analysis import calibration_run, plan_report, redundancy_run
from mar_accel.config.door import read_settings
from mar_accel.config.hydra_context import our_hydra
from mar_accel.config.messages import sentence_for
from mar_accel.config.settings import COMMAND_NODES, BenchmarkSettings, Settings
from mar_accel.evaluation import run as evaluation_run
from mar_accel.evaluation import sampled
from mar_accel.profiling import benchmark as benchmark_run
from mar_accel.runs import conversion, generation
from mar_accel.sweeps import table_run
from mar_accel.training import features as feature_training
from mar_accel.training import run as training_run

# One value of each kind, and the others. All of them take two minutes.
VALUES: tuple[Any, ...] = ("abc", "../x", True, None, -1, 1.5, 10**30, math.nan, [1, "x"], {})
FURTHER_VALUES: tuple[Any, ...] = (
    *("", "n" * 300, False, 0, -0.5, 10**12, 1e30, math.inf),
    *([], {"a": 1}),
)
# Runs a command with settings, and with overrides that apply to all rows of a table.
RUNS: dict[str, Callable[[Settings, list[str]], object]] = {
    "generate": lambda settings, overrides: generation.generate(settings),
    "evaluate": lambda settings, overrides: evaluation_run.evaluate(settings),
    "evaluate_table": table_run.evaluate_table,
    "benchmark": benchmark_run.benchmark,
    "plan": lambda settings, overrides: plan_report.show_plan(settings),
    "calibrate": lambda settings, overrides: calibration_run.calibrate(settings),
    "redundancy": lambda settings, overrides: redundancy_run.measure_redundancy(settings),
    "convert": lambda settings, overrides: conversion.convert(settings),
    "train": lambda settings, overrides: training_run.train(settings),
    # They read what their settings name; the folders are in the table of bad inputs.
    "collect": lambda settings, overrides: _reached(),
    "report": lambda settings, overrides: _reached(),
    "train_features": lambda settings, overrides: feature_training.train_features(settings),
}
_NUMBERS = (0, 1.5, 10**12, 10**30, 1e30)
_TEXTS = ("abc", "", "../x", "n" * 300)
# Keys with the values that they take, and why.
ACCEPTED: dict[str, tuple[Any, ...]] = {
    # Names, which are shown.
    "model.name": ("abc", "n" * 300),
    "dataset.name": _TEXTS,
    # Paths of folders that a run makes, and of files that other commands open.
    "output_dir": ("abc", "../x"),
    "reference.cache_dir": ("abc", "../x", "n" * 300, None),
    "reference.source": ("abc", "../x", "n" * 300),
    "features.weights": ("abc", "../x", "n" * 300, None),
    # Switches.
    "model.ema": (True, False),
    "generate.resume": (True, False),
    "evaluate.lpips": (False,),
    "evaluate.profile": (True, False),
    "evaluate.save_images": (True, False),
    "evaluate.resume": (True, False),
    "plan.flops": (True, False),
    "benchmark.autoencoder": (True, False),
    # Null is a value of its own: all, none, or the default.
    "dataset.labels": (0, None),
    "dataset.training_data": ({}, {"a": 1}, None),
    "dataset.training_data._target_": (None,),
    "trainer.limit_predict_batches": (10**12, 10**30, None),
    "evaluate.images": (None,),
    "evaluate.baseline_dir": ("abc", "../x", None),
    "evaluate.baseline_sampler.num_iter": (None,),
    "evaluate.baseline_sampler.num_diffusion_steps": (None,),
    "table.only": (None,),
    "collect.folders": ([],),
    "collect.baseline": ("", None),
    "collect.baseline_per": ([],),
    "collect.tuned": ([],),
    "collect.paired": (True, False),
    "collect.worst": (0, 10**12),
    # A metric of the runs, which are read later.
    "collect.objective": _TEXTS,
    "report.folders": ([],),
    "report.baseline": ("", None),
    "report.baseline_per": ([],),
    "report.title": (*_TEXTS, None),
    "report.figures": (True, False),
    "report.paired": (True, False),
    "report.tuned": ([],),
    "report.objective": _TEXTS,
    "table.paired": (True, False),
    "table.timing_batch_size": (10**12, None),
    "benchmark.only": (None,),
    # A variant without overrides is the config as it is.
    **dict.fromkeys((f"benchmark.variants.{name}" for name in BenchmarkSettings().variants), ([],)),
    # Read by a sweep alone, before its first run.
    "sweep": ({},),
    "sweep.name": ("abc", None),
    "sweep.rows": (*_TEXTS, None),
    **dict.fromkeys(("sweep.only", "sweep.skip"), (*_TEXTS, [], None)),
    **dict.fromkeys((f"sweep.{key}" for key in ("adjust", "flops_ratio", "tflops")), (None,)),
    **dict.fromkeys(("sweep.latency", "sweep.speedup"), (None,)),
    "sweep.gpus": ([], [1, "x"], None),
    "redundancy.head_every": (10**12, None),
    "redundancy.prune_block": (0,),
    "training.resume": (None,),
    "training.initial_weights": (None,),
    "training.local_start": (True, False),
    "training.max_noise_weight": _NUMBERS[1:],
    "training.clean_weight": _NUMBERS,
    "training.class_weight": _NUMBERS,
    # Sizes that may be zero.
    "model.architecture.buffer_size": (0,),
    "model.architecture.encoder_depth": (0,),
    "model.architecture.head_depth": (0,),
    # Any finite number from zero. What is too large for the model is found while sampling, and named.
    "model.sampling.guidance_scale": _NUMBERS,
    "model.sampling.max_timestep": (0, None),
    "model.sampling.head_refresh_below": (*_NUMBERS, None),
    "sampler.guidance_scale": _NUMBERS,
    "sampler.temperature": _NUMBERS,
    "sampler.max_timestep": (0, None),
    "training.learning_rate": _NUMBERS,
    "training.weight_decay": _NUMBERS,
    "training.gradient_clip": _NUMBERS,
    "feature_training.learning_rate": _NUMBERS[1:],
    "feature_training.weight_decay": _NUMBERS,
    "calibrate.drift_factor": _NUMBERS[1:],
    "calibrate.head_threshold": (*_NUMBERS[1:], None),
    # Shares.
    "training.decay_fraction": (0,),
    "training.ema_decay": (0,),
    "training.label_drop": (0,),
    "training.mask_ratio_min": (0,),
    "training.full_mask_share": (0,),
    # Counts, which take no memory.
    "seed": (0, 10**12),
    "dataset.num_images": (10**12,),
    "dataset.images_per_class": (10**12,),
    "trainer.batch_size": (10**12,),
    "reference.augmentations": (0, 10**12, 10**30),
    "evaluate.fidelity_images": (0, 10**12),
    "evaluate.timing_rounds": (0, 10**12),
    "table.timing_rounds": (10**12,),
    "table.strip_images": (10**12,),
    "benchmark.rounds": (10**12,),
    "benchmark.warmup_rounds": (0, 10**12),
    "calibrate.warmup_steps": (0,),
    "redundancy.head_period": (10**12,),
    "training.max_steps": (10**12,),
    "training.full_mask_tokens": (10**12, None),
    "training.warmup_steps": (0, 10**12),
    "training.checkpoint_every": (10**12,),
    "feature_training.epochs": (10**12,),
    # No member of a group: none of what it makes.
    "features": ({}, {"a": 1}),
    "features._target_": (None,),
    "reference": ({}, {"a": 1}),
    "reference._target_": (None,),
    "logger": ({}, {"a": 1}),
    "logger._target_": (None,),
    # Groups of settings with their defaults.
    **dict.fromkeys(("callbacks", "metrics", "trainer", "evaluate.baseline_sampler"), ({},)),
    **dict.fromkeys(COMMAND_NODES, ({},)),
}


class Reached(BaseException):
    """The command would sample, train or time now."""


def _reached(*arguments: Any, **options: Any) -> Any:
    raise Reached


@pytest.fixture(autouse=True)
def nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "predict", _reached)
    monkeypatch.setattr(pl.Trainer, "fit", _reached)
    monkeypatch.setattr(feature_training, "TRAINED", dict.fromkeys(feature_training.TRAINED, _reached))
    for module in (benchmark_run, sampled):
        monkeypatch.setattr(module, "announce", _reached)
    for module in (plan_report, conversion):
        monkeypatch.setattr(module, "prepare_output_dir", _reached)


def _keys(config: DictConfig, above: str = "") -> Iterator[str]:
    """All keys, those of groups too."""
    for name in map(str, config):
        yield above + name
        if not OmegaConf.is_missing(config, name) and isinstance(config[name], DictConfig):
            yield from _keys(config[name], f"{above}{name}.")


def _own(command: str) -> tuple[str, ...]:
    """Keys that are tried with a command: all with generate, else those of its own node."""
    if command == "generate":
        return ("",)
    judged = ("features", "reference", "metrics") if command == "evaluate" else ()
    return (*judged, *(node for node, owner in COMMAND_NODES.items() if owner == command))


@pytest.mark.parametrize(
    "values", [VALUES, pytest.param(FURTHER_VALUES, marks=pytest.mark.long)], ids=["kinds", "further"]
)
@pytest.mark.parametrize("command", RUNS)
def test_wrong_values_of_every_key(
    command: str, values: tuple[Any, ...], tiny_model: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with our_hydra():
        config = compose(command, _overrides(command, tiny_model, tmp_path))
        OmegaConf.set_struct(config, False)
        own = tuple(_own(command))
        keys = [key for key in _keys(config) if key != "command" and key.startswith(own)]
        assert keys
        wrong = [
            found
            for key in keys
            for value in values
            if (found := _try(command, config, key, value, tmp_path))
        ]
    assert not wrong, "\n".join(wrong)


def _overrides(command: str, tiny_model: list[str], folder: Path) -> list[str]:
    samples = command not in ("convert", "train", "train_features")
    overrides = [item for item in tiny_model if samples or not item.startswith("sampler.")]
    if command == "convert":
        overrides.append("model=digits")
    if command.startswith("evaluate"):
        overrides += ["reference.augmentations=0", f"reference.cache_dir={folder.parent / 'reference'}"]
    if command == "evaluate_table":
        (folder.parent / "rows.yaml").write_text("- {name: a}\n- {name: b, overrides: [sampler=gtr]}\n")
        overrides.append(f"table.rows={folder.parent / 'rows.yaml'}")
    if command == "calibrate":
        overrides.append("calibrate.flops_ratio=1.05")
    if command == "benchmark":
        overrides.append("benchmark.only=[mar]")
    return overrides


def _try(command: str, config: DictConfig, key: str, value: Any, folder: Path) -> str | None:
    """Run a command with one value; returns what is wrong with its answer."""
    changed = copy.deepcopy(config)
    changed.output_dir = "run"
    above, _, name = key.rpartition(".")
    (OmegaConf.select(changed, above) if above else changed)[name] = value
    shown = f"{key}={str(value)[:20]!r}"
    try:
        RUNS[command](read_settings(changed), [])
    except Reached:
        known = ACCEPTED.get(key, ())
        return (
            None
            if any(type(item) is type(value) and item == value for item in known)
            else f"{shown} is taken"
        )
    except Exception as error:
        sentence = sentence_for(error, command)
        if sentence is None:
            return f"{shown} fails: {error!r}"
        if "\n" in sentence or not sentence.endswith((".", "?")) or name not in sentence:
            return f"{shown} is refused without its key, or not in one sentence: {sentence}"
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        return f"{shown} is refused, but leaves {left}" if left else None
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return f"{shown} was run"
