"""A run that goes on: with the config, weights and samples of its first part, or with one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import Settings
from mar_accel.data.shards import FORMATS
from mar_accel.errors import ConfigError, IncompleteError
from mar_accel.evaluation.run import evaluate
from mar_accel.inference.build import build_architecture
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.session import Prediction, Session
from mar_accel.models.mar import MAR
from mar_accel.runs.folder import images_of
from mar_accel.runs.generation import generate

QUICK = {
    "generate": [],
    "evaluate": ["reference.augmentations=0", "evaluate.baseline=none", "evaluate.profile=false"],
}
RUN: dict[str, Callable[[Settings], object]] = {"generate": generate, "evaluate": evaluate}
of_both = pytest.mark.parametrize("command", RUN)


def _settings(command: str, *arguments: str) -> Settings:
    return compose_settings(command, [*QUICK[command], *arguments])


@pytest.fixture
def stopped(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Stops a run of four images after the first two, and returns what it was given."""

    def run(command: str, *overrides: str) -> list[str]:
        step = InferenceModule.predict_step

        def stop(self: InferenceModule, batch: Any, batch_idx: int) -> Prediction:
            if batch_idx == 1:
                raise SystemExit(75)
            return step(self, batch, batch_idx)

        few = ["dataset.num_images=4", "trainer.batch_size=2", f"output_dir={tmp_path / 'run'}"]
        arguments = [*tiny_model, *few, *overrides]
        with monkeypatch.context() as patch:
            patch.setattr(InferenceModule, "predict_step", stop)
            with pytest.raises(SystemExit):
                RUN[command](_settings(command, *arguments))
        return arguments

    return run


CHANGES = {
    "seed=1": "seed is 0 there and 1 here",
    "sampler.guidance_scale=2": "sampler.guidance_scale is 4 there and 2 here",
    "sampler.num_iter=5": "num_iter is 4 there and 5 here",
    "sampler=gtr": "sampler",
    "cache=lazymar": "cache",
    "cache=head": "cache",
    "dataset.labels=[1]": "dataset.labels is",
    "model.architecture.num_heads=4": "model.architecture.num_heads is 2 there and 4 here",
    "trainer.precision=bf16-true": "trainer.precision is 32-true there and bf16-true here",
    "sampler.temperature=0.9": "sampler.temperature is 1 there and 0.9 here",
    "dataset.num_images=1": "has images up to index 1, more than dataset.num_images=1 makes",
}


@of_both
def test_another_config_is_refused_by_its_key(command: str, stopped: Callable[..., list[str]]) -> None:
    arguments = stopped(command)
    changes = CHANGES if command == "generate" else {"seed=1": CHANGES["seed=1"]}
    for change, words in changes.items():
        with pytest.raises(ConfigError) as refused:
            RUN[command](_settings(command, *arguments, change, f"{command}.resume=true"))
        assert words in str(refused.value), change
    RUN[command](_settings(command, *arguments, f"{command}.resume=true"))


@of_both
@pytest.mark.parametrize("finished", [False, True])
def test_a_replaced_checkpoint_is_refused(
    command: str, finished: bool, stopped: Callable[..., list[str]], tiny_model: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    file = tmp_path / "w.pth"
    architecture = build_architecture(compose_settings("generate", tiny_model).model)
    torch.save(MAR(architecture).state_dict(), file)
    first = file.read_bytes()
    arguments = [*stopped(command, f"model.weights={file}"), f"{command}.resume=true"]
    if finished:
        RUN[command](_settings(command, *arguments))
    torch.save(MAR(architecture).state_dict(), file)
    with pytest.raises(ConfigError, match=f"images of other weights: the content of model.weights={file}"):
        RUN[command](_settings(command, *arguments))
    file.write_bytes(first)
    RUN[command](_settings(command, *arguments))


@of_both
@pytest.mark.parametrize("kind", FORMATS)
def test_a_sample_that_is_not_finite_is_the_only_one_that_is_missing(
    command: str, kind: str, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if memory had failed once, at sample 17."""
    few = ["dataset.num_images=20", "trainer.batch_size=4", f"output_dir={tmp_path / 'run'}"]
    settings = _settings(command, *tiny_model, *few, f"{command}.format={kind}")
    sample = Session.sample

    def damage(self: Session, indices: Any, *arguments: Any) -> Prediction:
        prediction = sample(self, indices, *arguments)
        prediction.images[[index == 17 for index in indices]] = torch.nan
        return prediction

    with monkeypatch.context() as patch:
        patch.setattr(Session, "sample", damage)
        with pytest.raises(IncompleteError, match=r"lacks 1 of 20 images.*: index 17 \(label 7\); lower"):
            RUN[command](settings)
    assert images_of(settings, tmp_path / "run").indices() == [n for n in range(20) if n != 17]
    assert not (tmp_path / "run" / "run.json").exists()
    RUN[command](settings.with_(**{command: {"resume": True}}))
    assert images_of(settings, tmp_path / "run").indices() == list(range(20))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["num_images"] == 20 and record.get("num_sampled", 4) == 4, "whole batches"
