"""What has to hold on a CUDA device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.evaluation.run import evaluate
from mar_accel.inference.trainer import build_trainer
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.profiling.benchmark import benchmark
from mar_accel.runs.generation import generate
from mar_accel.training.run import train

from .test_combinations import PRECISIONS, SHORT, check_samplings, samplings_under

pytestmark = pytest.mark.gpu

# One level of 255: sums are taken in another order on another device.
ONE_LEVEL = 1
GPU = ["trainer=gpu", "trainer.devices=1"]
EXACT = [*GPU, "trainer.precision=32-true"]
METHODS = {
    "mar": ["sampler=mar", "cache=none"],
    "gtr with lazymar": ["sampler=gtr", "cache=lazymar"],
    "taylor": ["sampler=mar", "cache=lazymar", "cache.head=taylor", "cache.head.order=1"],
    "attended tokens": ["sampler=halton", "cache=token", "cache.token=attended"],
    "adaptive": ["sampler=mar", "cache=lazymar", "cache/refresh=adaptive"],
    "dpm_solver": ["sampler=gtr", "sampler/solver=dpm_solver"],
}


def _pixels(folder: Path, overrides: list[str], num_images: int = 4) -> np.ndarray:
    few = [f"dataset.num_images={num_images}", f"output_dir={folder}"]
    generate(compose_settings("generate", [*overrides, *few]))
    images = [Image.open(path) for path in sorted((folder / "images").glob("*.png"))]
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gpu_and_cpu_sample_the_same_images(method: list[str], tiny_model: list[str], tmp_path: Path) -> None:
    overrides = [*tiny_model, *method]
    cpu = _pixels(tmp_path / "cpu", [*overrides, "trainer=cpu"])
    gpu = _pixels(tmp_path / "gpu", [*overrides, *EXACT])
    assert np.abs(gpu - cpu).max() <= ONE_LEVEL
    assert cpu.std() > 20, "black images would agree as well"


def test_gpu_and_cpu_sample_the_same_image_of_a_prompt(tiny_scenes: list[str], tmp_path: Path) -> None:
    overrides = [*tiny_scenes, "sampler=gtr_lightgen", "cache=lazymar_text", "dataset=scenes_eval"]
    cpu = _pixels(tmp_path / "cpu", [*overrides, "trainer=cpu"])
    gpu = _pixels(tmp_path / "gpu", [*overrides, *EXACT])
    assert np.abs(gpu - cpu).max() <= ONE_LEVEL and cpu.std() > 20


@pytest.mark.parametrize("model", ["digits", "scenes"])
@pytest.mark.parametrize("sampler", ["mar", "gtr"])
def test_the_embedded_models_sample_the_same_images(model: str, sampler: str, tmp_path: Path) -> None:
    """With real weights, where rounding may grow over the chains: seen by the mean, not by each pixel."""
    dataset = {"digits": "digits", "scenes": "scenes_eval"}[model]
    overrides = [f"model={model}", f"dataset={dataset}", f"sampler={sampler}", "sampler.num_iter=16"]
    cpu = _pixels(tmp_path / "cpu", [*overrides, "trainer=cpu"])
    gpu = _pixels(tmp_path / "gpu", [*overrides, *EXACT])
    assert np.abs(gpu - cpu).mean() < 0.05


@pytest.fixture(scope="module")
def tiny(tiny_model: list[str]) -> list[str]:
    return [*tiny_model, *SHORT]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_sampling_under_every_precision(precision: str, tiny: list[str], tmp_path: Path) -> None:
    trainer = compose_settings("generate", [*tiny, *GPU, f"trainer.precision={precision}"]).trainer
    check_samplings(trainer, samplings_under(precision), tiny, tmp_path, [3, 4], "cuda")


@pytest.mark.parametrize("cache", ["none", "lazymar"])
@pytest.mark.parametrize("sampler", ["mar", "gtr"])
def test_the_default_precision_makes_digits(sampler: str, cache: str, tmp_path: Path) -> None:
    """bf16-true, the precision of trainer=gpu, on real weights."""
    few = ["dataset.num_images=200", "evaluate.timing_rounds=0", "evaluate.baseline=none", "logger=none"]
    overrides = [*GPU, f"sampler={sampler}", f"cache={cache}", *few, f"output_dir={tmp_path}"]
    evaluation = evaluate(compose_settings("evaluate", overrides))
    assert evaluation is not None and evaluation.metrics["recognised"] > 0.9


def test_metrics_are_those_of_the_cpu(tiny: list[str], tmp_path: Path) -> None:
    few = ["dataset.num_images=32", "evaluate.timing_rounds=1", "reference.augmentations=0"]
    metrics = []
    for name, device in {"cpu": ["trainer=cpu"], "gpu": EXACT}.items():
        overrides = [*tiny, *device, *few, "cache=lazymar", "cache.head.period_for=15"]
        evaluation = evaluate(compose_settings("evaluate", [*overrides, f"output_dir={tmp_path / name}"]))
        assert evaluation is not None
        metrics.append(evaluation.metrics)
    cpu, gpu = metrics
    for key in ("fid", "psnr", "latent_mse", "tflops_per_image"):
        assert gpu[key] == pytest.approx(cpu[key], rel=1e-2), key
    assert 0 < gpu["peak_memory_bytes"] < 2**30 and gpu["speedup"] > 0


def test_features_in_float32_do_not_depend_on_the_device(tmp_path: Path) -> None:
    build_trainer(compose_settings("generate", EXACT).trainer, [], tmp_path)
    images = torch.randint(
        256, (64, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    extractor = DigitFeatures()
    cpu = extractor(images).pooled
    gpu = extractor.to("cuda")(images.cuda()).pooled.cpu()
    assert torch.allclose(gpu, cpu, rtol=1e-4, atol=1e-4 * float(cpu.abs().max()))


def test_a_benchmark_names_the_gpu_and_its_memory(tiny: list[str], tmp_path: Path) -> None:
    few = ["benchmark.only=[mar,gtr]", "benchmark.rounds=1", f"output_dir={tmp_path}"]
    overrides = [*tiny, *GPU, "trainer.batch_size=8", *few]
    benchmark(compose_settings("benchmark", overrides), overrides)
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert [gpu["name"] for gpu in record["hardware"]["gpus"]] == [torch.cuda.get_device_name(0)]
    assert all(variant["peak_memory_bytes"] > 0 for variant in record["variants"])


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """Limits the memory of this process on the GPU to a number of bytes."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total, 0)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_a_batch_that_does_not_fit_is_halved(
    little_memory: Any, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*tiny, *EXACT, "trainer.batch_size=256"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    plain = _pixels(tmp_path / "plain", overrides, 256)
    # Less than the tensors of the whole batch take at their peak.
    little_memory(int(torch.cuda.max_memory_allocated() * 0.8))
    divided = _pixels(tmp_path / "divided", overrides, 256)
    assert "256 images at a time do not fit into the memory of cuda:0" in capsys.readouterr().err
    assert np.abs(divided - plain).max() <= ONE_LEVEL
    assert json.loads((tmp_path / "divided" / "run.json").read_text())["batch_size"] <= 128


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_training(precision: str, tiny: list[str], tmp_path: Path) -> None:
    model = [override for override in tiny if override.startswith("model.")]
    short = ["training.max_steps=3", "training.batch_size=4", f"trainer.precision={precision}", "logger=none"]
    result = train(compose_settings("train", [*model, *GPU, *short, f"output_dir={tmp_path}"]))
    assert result is not None and result.steps == 3
