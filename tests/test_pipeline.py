"""MARPipeline: the same images as generate, any member of the groups, round trips, clear refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.models.mar import MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import DecodeState
from mar_accel.weights.loading import load_mar

FAST = {"num_iter": 4, "num_diffusion_steps": 5}


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


@pytest.fixture(scope="module")
def pipe() -> MARPipeline:
    config = MARConfig(
        grid=(8, 8),
        patch_size=2,
        latent_channels=1,
        num_classes=10,
        buffer_size=4,
        embed_dim=32,
        num_heads=2,
        encoder_depth=1,
        decoder_depth=2,
        head_depth=1,
        head_width=32,
    )
    model = load_mar(config, "random", "small")
    return MARPipeline(model, PixelAutoencoder(), name="small", sampling={"guidance_scale": 2.0})


def test_images_do_not_depend_on_the_batch(pipe: MARPipeline) -> None:
    whole, parts = pipe([3, 7, 1], **FAST), pipe([3, 7, 1], batch_size=2, **FAST)
    assert [image.size for image in whole.images] == [(16, 16)] * 3
    assert whole.tokens.shape == (3, 64, 4) and bool(whole.tokens.isfinite().all())
    for one, other in zip(whole.images, parts.images, strict=True):
        assert np.abs(_pixels(one) - _pixels(other)).max() <= 1
    assert torch.equal(pipe(torch.tensor([3, 7, 1]), **FAST).tokens, whole.tokens)
    alone = pipe(3, **FAST)
    assert np.abs(_pixels(alone.images[0]) - _pixels(whole.images[0])).max() <= 1


def test_settings_reach_the_sampler(pipe: MARPipeline) -> None:
    """Each of them changes the tokens, and the default guidance is the model's own."""
    tokens = pipe(3, **FAST).tokens
    assert torch.equal(tokens, pipe(3, guidance_scale=2.0, **FAST).tokens)
    changed = [
        pipe(3, guidance_scale=1.0, **FAST),
        pipe(4, **FAST),
        pipe(3, seed=1, **FAST),
        pipe(3, num_iter=5, num_diffusion_steps=5),
        pipe(3, num_iter=4, num_diffusion_steps=6),
        pipe(3, overrides=["sampler.temperature=0.5"], **FAST),
        pipe(3, overrides=["sampler/guidance_schedule=constant"], **FAST),
    ]
    assert not any(torch.equal(tokens, output.tokens) for output in changed)


def test_an_observer_sees_every_step_and_the_images(pipe: MARPipeline) -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.images: list[torch.Size] = []

        def step_end(self, state: DecodeState, step: ARStep) -> None:
            self.steps.append(step.num_tokens)

        def autoencoder_end(self, images: torch.Tensor) -> None:
            self.images.append(images.shape)

    recorder = Recorder()
    pipe([3, 7], num_iter=3, num_diffusion_steps=2, observer=recorder)
    assert len(recorder.steps) == 3 and sum(recorder.steps) == 64
    assert recorder.images == [(2, 1, 16, 16)]


def test_any_member_by_name(pipe: MARPipeline) -> None:
    """GtR's parts ask the model for its grid; the others for K and T."""
    assert bool(pipe(3, sampler="gtr_18").tokens.isfinite().all())
    assert not torch.equal(pipe(3, sampler="halton", **FAST).tokens, pipe(3, **FAST).tokens)


def test_the_models_head_cache_is_used(pipe: MARPipeline) -> None:
    """A model whose head cache is to compute all of a chain is sampled as without a cache."""
    everything = MARPipeline(pipe.model, pipe.autoencoder, guidance_scale=2.0, head_refresh_below=1.0)
    settings = {**FAST, "cache": "head", "overrides": ["cache.head.period_for=1"]}
    plain = pipe(5, **FAST).tokens
    assert (everything(5, **settings).tokens - plain).abs().max() <= 1e-5
    assert (pipe(5, **settings).tokens - plain).abs().max() > 1e-5


def test_half_precision(pipe: MARPipeline) -> None:
    expected = pipe(3, **FAST).tokens
    try:
        tokens = pipe.to(torch.bfloat16)(3, **FAST).tokens
        assert pipe.dtype == torch.bfloat16
    finally:
        pipe.to(torch.float32)
    assert tokens.dtype == torch.float32
    assert 0 < float((tokens - expected).norm() / expected.norm()) < 0.1


def test_save_and_load(pipe: MARPipeline, tmp_path: Path) -> None:
    again = MARPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "small"))
    assert (again.name, again.guidance_scale) == ("small", 2.0)
    assert again.model.config == pipe.model.config
    assert torch.equal(again(5, **FAST).tokens, pipe(5, **FAST).tokens)


def test_file_needs_a_model(tmp_path: Path) -> None:
    random = MARPipeline.from_pretrained("random", model="digits")
    path = tmp_path / "digits.safetensors"
    save_file(random.model.state_dict(), path)
    loaded = MARPipeline.from_pretrained(path, model="digits")
    assert (loaded.name, loaded.guidance_scale) == ("digits", random.guidance_scale)
    torch.testing.assert_close(loaded.model.state_dict(), random.model.state_dict(), rtol=0, atol=0)
    for weights in (path, "random"):
        with pytest.raises(
            WeightsError, match=r'does not say which model it belongs to; name it, as in model="'
        ):
            MARPipeline.from_pretrained(weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_labels": [3, 10]}, "class_labels: 10 is not a class of the model; give labels in 0 to 9"),
        ({"class_labels": [-1]}, "class_labels: -1 is not a class"),
        ({"class_labels": ["3"]}, "class_labels: 3 is not a class"),
        ({"class_labels": [2.5]}, r"class_labels: 2\.5 is not a class"),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": 3, "seed": -1}, "seed=-1 is too small"),
        ({"class_labels": 3, "batch_size": 0}, "batch_size=0 is too small"),
        (
            {"class_labels": 3, "guidance_scale": -2.0},
            r"sampler\.guidance_scale must be .* ≥ 0 .* got -2\.0",
        ),
        ({"class_labels": 3, "num_iter": 65}, r"sampler\.num_iter must be between 1 and 64 .* got 65"),
        ({"class_labels": 3, "sampler": "nope"}, "sampler=nope is unknown; choose one of .*mar"),
        ({"class_labels": 3, "cache": "nope"}, "cache=nope is unknown; choose one of .*none"),
        ({"class_labels": 3, "overrides": ["sampler.num_itre=3"]}, r"sampler\.num_itre is not a key"),
    ],
)
def test_bad_input_is_one_sentence(pipe: MARPipeline, arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_unknown_model() -> None:
    with pytest.raises(ConfigError, match=r"model=nope is unknown; choose one of .*mar_base"):
        MARPipeline.from_pretrained("random", model="nope")


@pytest.mark.slow
def test_importing_it_does_not_import_lightning() -> None:
    check = (
        "import sys, mar_accel.pipeline; sys.exit('lightning' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.slow
def test_same_images_as_generate(tmp_path: Path) -> None:
    from mar_accel.config.compose import compose_settings
    from mar_accel.runs.generation import generate

    settings = ["sampler.num_iter=4", "sampler.num_diffusion_steps=10", "seed=5", "sampler=halton"]
    config = compose_settings(
        "generate",
        [
            *("model=digits", "model.weights=random", "logger=none", "callbacks=none"),
            *("dataset.num_images=4", "dataset.labels=[3,7]", "trainer.batch_size=3"),
            *(*settings, f"output_dir={tmp_path / 'run'}"),
        ],
    )
    generate(config)
    pipe = MARPipeline.from_pretrained("random", model="digits")
    images = pipe([3, 7, 3, 7], sampler="halton", num_iter=4, num_diffusion_steps=10, seed=5).images
    for index, image in enumerate(images):
        written = Image.open(tmp_path / "run" / "images" / f"{index:06d}.png")
        assert np.abs(_pixels(written) - _pixels(image)).max() <= 1
