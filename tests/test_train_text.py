"""Training of a text-to-image model: a step runs, a checkpoint goes on, weights come back."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mar_accel import MARPipeline
from mar_accel.config.compose import compose_settings
from mar_accel.data import scene_training
from mar_accel.data.captions import VOCABULARY, tokenize
from mar_accel.data.scene_classes import NUM_CLASSES
from mar_accel.data.scene_training import SceneBatches, SceneTrainingData
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.text_encoder import encode_text
from mar_accel.models.word_encoder import WordEncoder
from mar_accel.training.build import build_trained
from mar_accel.training.conditioning import TextConditioner
from mar_accel.training.module import TrainingModule
from mar_accel.training.run import train
from mar_accel.weights.folder import save_model_folder
from mar_accel.weights.text_folder import load_word_encoder

TINY = [
    "model=scenes",
    "dataset=scenes",
    "model.architecture.embed_dim=32",
    "model.architecture.num_heads=2",
    *(f"model.architecture.{part}_depth=1" for part in ("encoder", "decoder", "cross", "text", "head")),
    "model.architecture.head_width=32",
    "training.batch_size=2",
    "training.checkpoint_every=2",
    "training.timestep_draws=2",
    "logger=none",
]


def _train(folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """Train; returns the checkpoint's averaged weights."""
    result = train(compose_settings("train", [*TINY, f"output_dir={folder}", *overrides]))
    assert result is not None and result.folder == folder / "model"
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_vocabulary_has_the_size_that_the_model_says() -> None:
    assert compose_settings("train", ["model=scenes", "dataset=scenes"]).model.text_encoder[
        "vocab_size"
    ] == len(VOCABULARY)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_goes_on_and_leaves_a_model(precision: str, tmp_path: Path) -> None:
    _train(tmp_path, f"trainer.precision={precision}", "training.max_steps=2")
    state = _train(tmp_path, f"trainer.precision={precision}", "training.max_steps=3")
    pipe = MARPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(pipe.text_encoder, WordEncoder)
    for key, value in pipe.model.state_dict().items():
        assert torch.equal(value, state[f"model.{key}"])
    for key, value in pipe.text_encoder.encoder.state_dict().items():
        assert torch.equal(value, state[f"conditioner.encoder.{key}"])


def test_resumed_training_sees_other_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    class Recorded(SceneBatches):
        def __init__(self, batch_size: int, seed: Sequence[int], *arguments: float):
            super().__init__(batch_size, seed, *arguments)
            seeds.append(tuple(seed))

    monkeypatch.setattr(scene_training, "SceneBatches", Recorded)
    for steps in (2, 3):
        _train(tmp_path, f"training.max_steps={steps}", "seed=5")
    assert seeds == [(5, 0, 0), (5, 2, 0)]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_process_that_draws_scenes_leaves_stopping_to_the_training(stop: signal.Signals) -> None:
    """A terminal and Slurm signal all processes of a command. The loss of one would be an error."""
    data = SceneTrainingData(batch_size=1, num_workers=1)
    data.trainer = SimpleNamespace(global_step=0, global_rank=0)  # type: ignore[assignment]
    batches = iter(data.train_dataloader())
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    os.kill(worker.pid, stop)
    # More than are drawn ahead.
    for _ in range(6):
        next(batches)
    del batches
    worker.join()


@pytest.mark.slow
def test_processes_may_differ_in_what_has_no_gradient(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The encoder does not run where all tokens are masked. Each process draws that for itself."""
    arguments = [*TINY, "trainer=ddp_cpu", "training.full_mask_share=0.5", "training.max_steps=8"]
    process = start(tmp_path, "train", *arguments, "output_dir=run")
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 8


def test_training_begins_from_given_weights(tmp_path: Path) -> None:
    state = _train(tmp_path / "first", "training.max_steps=1")
    begun = [f"training.initial_weights={tmp_path / 'first' / 'model'}", "training.learning_rate=0"]
    after = _train(tmp_path / "second", "training.max_steps=1", *begun)
    assert after.keys() == state.keys() and all(torch.equal(after[key], state[key]) for key in state)
    with pytest.raises(WeightsError, match=r"initial_weights=.* does not fit"):
        _train(tmp_path / "third", "training.max_steps=1", *begun, "model.architecture.embed_dim=64")


def test_classes_of_tokens_are_learned_from_the_text(tmp_path: Path) -> None:
    """The third loss falls, and its layer is not part of the model."""
    known = ["training.class_weight=1", "training.full_mask_share=1", "training.learning_rate=0.01", "seed=1"]
    state = _train(tmp_path, *known, "training.batch_size=16", "training.max_steps=60", "logger=csv")
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["class_loss"]) < 0.8 * sum(math.log(number) for number in NUM_CLASSES)
    assert "classifier.weight" in state
    MARPipeline.from_pretrained(tmp_path / "model")


def test_words_without_a_class_have_no_loss() -> None:
    """Where all texts are dropped, no word is left, and the loss is still finite."""
    logits, classes = torch.randn(2, 3, 3), torch.tensor([[0, -100, 2], [-100, 1, -100]])
    found = TrainingModule._word_loss(logits, classes)
    kept = classes >= 0
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits[kept], classes[kept]))
    assert TrainingModule._word_loss(logits[:0], classes[:0]) == 0
    assert TrainingModule._word_loss(logits, torch.full_like(classes, -100)) == 0


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["model=digits", "dataset=digits"], "dataset=digits has no classes of tokens"),
        (["model.architecture.grid=[8,8]", "model.architecture.patch_size=2"], "16×16 tokens, but .* is 8×8"),
    ],
)
def test_classes_that_the_data_lacks_are_refused(overrides: list[str], wrong: str, tmp_path: Path) -> None:
    config = ["model=scenes", "dataset=scenes", *overrides, "training.class_weight=1"]
    with pytest.raises(ConfigError, match=rf"^training\.class_weight: .*{wrong}[^\n]*\.$"):
        train(compose_settings("train", [*config, f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_batch_without_known_tokens_shares_its_decoder() -> None:
    network, conditioner = build_trained(compose_settings("train", TINY).model)
    ids, dropped = tokenize(["a red three", "two fives"]), torch.tensor([False, True])
    latents, length = torch.randn(2, *network.config.latent_shape), network.config.seq_len
    order = torch.rand(2, length).argsort(dim=1)
    for num_masked in (length, length - 1):
        results = []
        for training in (True, False):
            network.train(training)
            condition = conditioner(network, ids, dropped)
            results.append(network.masked_tokens(latents, condition, order, num_masked))
        for shared, each in zip(*results, strict=True):
            torch.testing.assert_close(shared, each)


def test_dropped_texts_are_the_unconditional_branch() -> None:
    network, conditioner = build_trained(compose_settings("train", TINY).model)
    assert isinstance(conditioner, TextConditioner)
    ids, dropped = tokenize(["a red three", "two fives"]), torch.tensor([True, False])
    (branch,) = conditioner(network, ids, dropped).branches
    (texts,) = network.condition(encode_text(conditioner.encoder, ids)).branches
    (alone,) = network.unconditional(1).branches
    for (k, v), (text_k, text_v), (one_k, one_v) in zip(branch.keys, texts.keys, alone.keys, strict=True):
        torch.testing.assert_close(k[1], text_k[1])
        torch.testing.assert_close(v[1], text_v[1])
        torch.testing.assert_close(k[0], one_k[0].expand_as(k[0]))
        torch.testing.assert_close(v[0], one_v[0].expand_as(v[0]))


@pytest.mark.parametrize("damage", ["code", "cut", "layers", "words", "pipe", "gone", "width"])
def test_a_folder_of_a_text_model_that_is_damaged_is_one_sentence(damage: str, tmp_path: Path) -> None:
    network, conditioner = build_trained(compose_settings("train", TINY).model)
    assert isinstance(conditioner, TextConditioner)
    names = {"name": "scenes", "sampling": {}}
    folder = save_model_folder(tmp_path / "model", network, text_encoder=conditioner.encoder, **names)
    load_word_encoder(str(folder))
    file, config = (folder / "text_encoder" / name for name in ("model.safetensors", "config.json"))
    values = json.loads(config.read_text())
    if damage == "code":
        torch.save({"a": torch.device}, file)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:500])
    elif damage in ("pipe", "gone"):
        config.unlink()
        if damage == "pipe":
            os.mkfifo(config)
    else:
        wrong = {"layers": ("num_layers", 10**7), "words": ("num_heads", "many"), "width": ("d_ff", 10**9)}
        values[wrong[damage][0]] = wrong[damage][1]
        config.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=r"^model\.weights.*text_encoder[^\n]*\.$"):
        load_word_encoder(str(folder))
