"""The command that trains: what it leaves, and trainings that are stopped and go on."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from mar_accel import MARPipeline
from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import TrainingSettings
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.runs.lock import RunLock
from mar_accel.training.conditioning import LabelConditioner
from mar_accel.training.module import TrainingModule, draw_mask_ratio, draw_num_masked
from mar_accel.training.run import train

# The overrides of a sampler mean nothing to a training.
SETTINGS = ["training.batch_size=4", "training.checkpoint_every=2", "training.warmup_steps=2", "logger=none"]


@pytest.fixture(scope="module")
def tiny(tiny_model: list[str]) -> list[str]:
    return [*(override for override in tiny_model if override.startswith("model.")), *SETTINGS]


def _train(folder: Path, overrides: list[str], *more: str) -> dict[str, Any]:
    """Train; returns the record."""
    result = train(compose_settings("train", [*overrides, f"output_dir={folder}", *more]))
    record = json.loads((folder / "run.json").read_text())
    assert result is not None and (result.folder, result.steps) == (folder / "model", record["steps"])
    return record


def _checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_training_leaves_averaged_weights_and_their_card(tiny: list[str], tmp_path: Path) -> None:
    record = _train(tmp_path, tiny, "training.max_steps=3", "training.ema_decay=0.5", "seed=3")
    assert record["steps"] == 3 and record["resumed_at"] == 0 and record["seconds"] > 0
    checkpoint, saved = _checkpoint(tmp_path), load_file(tmp_path / "model" / "model.safetensors")
    assert checkpoint["global_step"] == 3, "the last step is no multiple of checkpoint_every"
    for key, value in saved.items():
        assert torch.equal(value, checkpoint["state_dict"][f"model.{key}"])
    trained = checkpoint["current_model_state"]
    assert any(not torch.equal(value, trained[f"model.{key}"]) for key, value in saved.items())
    card = (tmp_path / "model" / "README.md").read_text()
    assert "training.max_steps=3" in card or "| Steps | 3 |" in card
    assert "| Seed | 3 |" in card and str(tmp_path) not in card


def test_a_second_loss_leaves_the_model_as_it_is_and_goes_on(tiny: list[str], tmp_path: Path) -> None:
    both = [*tiny, "training.clean_weight=0.5", "seed=3"]
    _train(tmp_path / "both", both, "training.max_steps=1")
    _train(tmp_path / "both", both, "training.max_steps=2")
    _train(tmp_path / "one", tiny, "training.max_steps=2", "seed=3")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("both", "one")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(name.startswith("predictor.") for name in _checkpoint(tmp_path / "both")["state_dict"])


def test_a_model_of_latents_is_trained_on_images_of_ones_own(tiny: list[str], tmp_path: Path) -> None:
    """The autoencoder of the model makes the latents, and goes along with it."""
    for number in range(4):
        (tmp_path / "images" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 32, 3), generator=torch.Generator().manual_seed(number))
        file = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(file)
    # What a notebook leaves is no class.
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir()
    # Its latents have half of the sides of an image.
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    vae.save_pretrained(tmp_path / "vae")
    latents = ["model=mar_base", f"model.autoencoder.weights={tmp_path / 'vae'}"]
    latents += ["model.architecture.grid=[16,16]", "model.architecture.latent_channels=4"]
    sizes = ["encoder_depth=1", "decoder_depth=1", "embed_dim=32", "num_heads=2", "buffer_size=2"]
    latents += [f"model.architecture.{size}" for size in (*sizes, "head_width=16", "head_depth=1")]
    images = ["dataset=folder", f"dataset.path={tmp_path / 'images'}", "dataset.training_data.channels=3"]
    overrides = [*latents, *images, *SETTINGS, "model.architecture.num_classes=2"]
    _train(tmp_path / "run", overrides, "training.max_steps=1")
    pipe = MARPipeline.from_pretrained(str(tmp_path / "run" / "model"))
    (image,) = pipe(1, num_iter=2, num_diffusion_steps=2).images
    assert image.size == (32, 32) and image.mode == "RGB"


def test_trained_model_is_sampled(
    tiny: list[str], tiny_model: list[str], run_here: Any, tmp_path: Path
) -> None:
    _train(tmp_path / "training", tiny, "training.max_steps=1")
    weights = f"model.weights={tmp_path / 'training' / 'model'}"
    run = run_here("generate", *tiny_model, weights, "dataset.num_images=1", f"output_dir={tmp_path / 'run'}")
    assert run.status == 0, run.stderr


def test_finished_training_is_only_exported(tiny: list[str], tmp_path: Path) -> None:
    _train(tmp_path, tiny, "training.max_steps=2")
    model = tmp_path / "model" / "model.safetensors"
    weights, checkpoint = load_file(model), tmp_path / "checkpoints" / "last.ckpt"
    model.unlink()
    written = checkpoint.stat().st_mtime_ns
    seconds = json.loads((tmp_path / "run.json").read_text())["seconds"]
    record = _train(tmp_path, tiny, "training.max_steps=2")
    assert record["steps"] == record["resumed_at"] == 2 and checkpoint.stat().st_mtime_ns == written
    assert record["seconds"] == seconds > 0, "the training took as long as it took"
    assert all(torch.equal(value, weights[key]) for key, value in load_file(model).items())


def test_another_training_is_not_continued(tiny: list[str], tmp_path: Path) -> None:
    """A checkpoint brings its learning rate along, and the record would say the new one."""
    _train(tmp_path, tiny, "training.max_steps=1")
    for changed, key in (
        ("training.learning_rate=0.5", r"training\.learning_rate"),
        ("seed=7", "seed"),
        ("model.architecture.embed_dim=64", r"model\.architecture\.embed_dim"),
    ):
        with pytest.raises(ConfigError, match=rf"last\.ckpt is of a training with {key}=\S+, got "):
            _train(tmp_path, tiny, "training.max_steps=2", changed)
    # A checkpoint that is named says itself what it is of.
    named = ["training.max_steps=2", f"training.resume={tmp_path / 'checkpoints' / 'last.ckpt'}", "seed=7"]
    with pytest.raises(ConfigError, match="is of a training with seed=0, got 7"):
        _train(tmp_path / "other", tiny, *named)
    assert not (tmp_path / "other").exists()
    (tmp_path / "config.yaml").write_text(
        (tmp_path / "config.yaml").read_text().replace("seed: 0", "seed: 7")
    )
    with pytest.raises(ConfigError, match="is of a training with seed=0, got 7"):
        _train(tmp_path, tiny, "training.max_steps=2", "seed=7")
    with RunLock(tmp_path) as lock:
        lock.take()
        with pytest.raises(ConfigError, match="is in use by another run"):
            _train(tmp_path, tiny, "training.max_steps=2")
    assert _train(tmp_path, tiny, "training.max_steps=2", "training.checkpoint_every=1")["steps"] == 2


def test_products_are_faster_in_training_alone(tiny: list[str], tmp_path: Path) -> None:
    _train(tmp_path, tiny, "training.max_steps=1")
    assert torch.get_float32_matmul_precision() == "highest"


def test_resumed_training_goes_on(tiny: list[str], tmp_path: Path) -> None:
    logged = [*tiny, "logger=csv"]
    _train(tmp_path, logged, "training.max_steps=2")
    before = _checkpoint(tmp_path)
    # Another last step is another schedule, and legitimate.
    record = _train(tmp_path, logged, "training.max_steps=6")
    assert (record["resumed_at"], record["steps"]) == (2, 6)
    after = _checkpoint(tmp_path)
    assert after["global_step"] == 6
    moments = [checkpoint["optimizer_states"][0]["state"][0]["step"] for checkpoint in (before, after)]
    assert [float(step) for step in moments] == [2, 6], "the optimiser went on and did not start anew"
    assert float(after["averaging_state"]["n_averaged"]) == 6
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["last.ckpt", "step-6.ckpt"]


def test_metrics_of_before_a_resumption_are_kept(tiny: list[str], tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("loss,step\n1.0,1\n")
    _train(tmp_path, [*tiny, "logger=csv"], "training.max_steps=1")
    assert (logs / "metrics-1.csv").read_text() == "loss,step\n1.0,1\n"
    assert "training" in (logs / "hparams.yaml").read_text()


@pytest.mark.slow
def test_killed_training_goes_on_from_its_last_checkpoint(
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    tiny: list[str],
    tmp_path: Path,
) -> None:
    arguments = [*tiny, f"output_dir={tmp_path}", "logger=csv", "training.max_steps=100000"]
    process = start(tmp_path, "train", *arguments)
    wait_for((tmp_path / "checkpoints" / "last.ckpt").exists, process)
    process.kill()
    process.communicate()
    step = _checkpoint(tmp_path)["global_step"]
    assert step >= 2 and not (tmp_path / "run.json").exists()
    record = _train(tmp_path, tiny, f"training.max_steps={step + 3}")
    assert (record["resumed_at"], record["steps"]) == (step, step + 3)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.max_steps=0", r"training\.max_steps must be ≥ 1, got 0\.$"),
        ("training.max_steps=many", r"training\.max_steps must be an integer, got 'many'\.$"),
        ("training.label_drop=1.5", r"training\.label_drop must be ≤ 1\S*, got 1\.5\.$"),
        ("training.ema_decay=1", r"training\.ema_decay must be < 1\S*, got 1\.$"),
        ("training.learning_rate=-1", r"training\.learning_rate must be ≥ 0\S*, got -1\.$"),
        ("training.resume=missing.ckpt", "training.resume=missing.ckpt is not a file"),
        ("model.architecture.latent_channels=3", "makes images of 3 channels but dataset=digits has 1"),
        ("dataset=imagenet", "dataset=imagenet has no training data"),
    ],
)
def test_bad_settings_are_refused(override: str, sentence: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=sentence):
        train(compose_settings("train", [f"output_dir={folder}", override]))
    assert not folder.exists()


def test_damaged_checkpoint_and_other_architecture_are_refused(tiny: list[str], tmp_path: Path) -> None:
    _train(tmp_path, tiny, "training.max_steps=1")
    last = tmp_path / "checkpoints" / "last.ckpt"
    other = ["training.max_steps=1", "model.architecture.embed_dim=64", f"training.resume={last}"]
    with pytest.raises(ConfigError, match=r"of a training with model\.architecture\.embed_dim=32, got 64"):
        _train(tmp_path / "other", tiny, *other)
    # A checkpoint that does not say what it is of.
    checkpoint = _checkpoint(tmp_path)
    del checkpoint["training_settings"]
    torch.save(checkpoint, last)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(WeightsError, match="trained with another architecture"):
        _train(tmp_path / "other", tiny, *other)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"last\.ckpt is damaged"):
        _train(tmp_path, tiny, "training.max_steps=2")


def test_mask_ratios_are_those_of_the_truncated_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = torch.tensor([draw_mask_ratio(0.7, 0.25, generator) for _ in range(4000)])
    assert float(ratios.min()) >= 0.7 and float(ratios.max()) <= 1
    # Mean of a normal around 1 (deviation 0.25) on [0.7, 1]: 1 - 0.25·(φ(0) - φ(1.2)) / (Φ(0) - Φ(-1.2)).
    assert float(ratios.mean()) == pytest.approx(0.8667, abs=0.005)
    # A wide one is nearly uniform.
    wide = torch.tensor([draw_mask_ratio(0.1, 10.0, generator) for _ in range(4000)])
    assert float(wide.min()) >= 0.1 and float(wide.mean()) == pytest.approx(0.55, abs=0.015)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_batches_has_all_tokens_masked(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    config = TrainingSettings(full_mask_share=share)
    drawn = torch.tensor([draw_num_masked(256, config, generator) for _ in range(4000)])
    assert int(drawn.min()) >= 180 and int(drawn.max()) <= 256
    # MAR's ratio rounds up to all of 256 tokens in 1.6 % of the batches.
    assert float((drawn == 256).float().mean()) == pytest.approx(share + (1 - share) * 0.016, abs=0.02)


def test_learning_rate_warms_up_stays_and_decays() -> None:
    training = TrainingSettings(max_steps=100, warmup_steps=10, decay_fraction=0.3, learning_rate=1)
    sizes = {"embed_dim": 32, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    model = MAR(MARConfig(**sizes, head_depth=1, head_width=32))
    factor = TrainingModule(model, LabelConditioner(), PixelAutoencoder(), training).learning_rate_factor
    assert factor(0) == pytest.approx(0.1) and factor(9) == factor(50) == factor(70) == 1
    assert factor(85) == pytest.approx(0.5) and factor(100) == 0
    assert all(factor(step + 1) <= factor(step) for step in range(70, 100))


@pytest.mark.slow
def test_loss_falls(tiny: list[str], tmp_path: Path) -> None:
    steps = ["training.max_steps=200", "training.batch_size=8", "training.checkpoint_every=200"]
    _train(tmp_path, tiny, *steps, "logger=csv")
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
