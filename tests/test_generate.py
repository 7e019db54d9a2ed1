"""generate: an image does not depend on batch, processes or order of indices; what a run leaves behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import DatasetSettings
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.inference.session import Session
from mar_accel.runs.generation import generate
from mar_accel.utils.images import image_name, to_pil

NUM_IMAGES = 16
NAMES = [".lock", "config.yaml", "grid.png", "images", "run.json"]
# One level of an 8-bit image: what rounding may change where a batch's sums are taken in another order.
ONE_LEVEL = 1


def _pixels(folder: Path, num_images: int = NUM_IMAGES) -> np.ndarray:
    """The images of a run as integers [N, 32, 32]."""
    images = [Image.open(folder / "images" / image_name(index)) for index in range(num_images)]
    return np.stack([np.asarray(image).astype(int) for image in images])


def _generate(folder: Path, overrides: list[str]) -> np.ndarray:
    config = compose_settings(
        "generate", [*overrides, f"dataset.num_images={NUM_IMAGES}", f"output_dir={folder}"]
    )
    result = generate(config)
    assert result is not None and result.output_dir == folder
    return _pixels(folder)


@pytest.mark.parametrize("method", [["sampler=mar", "cache=none"], ["sampler=gtr", "cache=lazymar"]], ids=str)
def test_batch_size_does_not_matter(method: list[str], tiny_model: list[str], tmp_path: Path) -> None:
    # The samplers with fixed rates take more steps than num_iter.
    runs = [
        _generate(tmp_path / str(size), [*method, *tiny_model, f"trainer.batch_size={size}"])
        for size in (1, 7, 16)
    ]
    for run in runs[1:]:
        assert np.abs(run - runs[0]).max() <= ONE_LEVEL
    # The test would see a difference: images are not black, and differ from each other.
    assert runs[0].std() > 20 and np.abs(runs[0][0] - runs[0][1]).max() > 100


def test_order_of_indices_does_not_matter(tiny_model: list[str]) -> None:
    session = Session.from_settings(compose_settings("generate", tiny_model))

    def sample(indices: list[int]) -> dict[int, np.ndarray]:
        prediction = session.sample(indices, torch.tensor([index % 10 for index in indices]))
        assert prediction.indices.tolist() == indices
        return {
            index: np.asarray(to_pil(image)).astype(int)
            for index, image in zip(indices, prediction.images, strict=True)
        }

    straight, mixed = sample([0, 1, 2, 3, 4]), sample([4, 1, 3, 0])
    for index, image in mixed.items():
        assert np.abs(image - straight[index]).max() <= ONE_LEVEL


@pytest.mark.slow
def test_number_of_processes_does_not_matter(
    start: Callable[..., subprocess.Popen[str]], tiny_model: list[str], tmp_path: Path
) -> None:
    one = _generate(tmp_path / "one", [*tiny_model, "trainer.batch_size=16"])
    arguments = ["trainer=ddp_cpu", "trainer.batch_size=3", f"dataset.num_images={NUM_IMAGES}"]
    process = start(tmp_path, "generate", *tiny_model, *arguments, "output_dir=two")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert np.abs(_pixels(tmp_path / "two") - one).max() <= ONE_LEVEL
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert record["num_processes"] == 2 and record["num_images"] == NUM_IMAGES
    assert stdout.count("16 images in") == 1, "only the first process reports"


@pytest.mark.slow
def test_multirun_over_processes_gives_each_job_its_folder(
    start: Callable[..., subprocess.Popen[str]], tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = ["seed=0,1", "trainer=ddp_cpu", "dataset.num_images=3", "hydra.sweep.dir=sweep"]
    # -m comes first: between overrides argparse does not take it.
    process = start(tmp_path, "generate", "-m", *tiny_model, *arguments)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/run.json")]
    assert sorted(record["seed"] for record in records) == [0, 1]
    first, second = (_pixels(Path(record["config"]["output_dir"]), 3) for record in records)
    assert np.abs(first - second).max() > ONE_LEVEL


def test_processes_without_work_are_refused(tiny_model: list[str], tmp_path: Path) -> None:
    config = compose_settings(
        "generate", [*tiny_model, "trainer=ddp_cpu", "dataset.num_images=1", f"output_dir={tmp_path}/run"]
    )
    with pytest.raises(ConfigError, match=r"trainer\.devices=2 .* dataset\.num_images=1"):
        generate(config)
    assert not (tmp_path / "run").exists()


def test_guidance_and_precision_keep_the_noise(tiny_model: list[str], tmp_path: Path) -> None:
    """bfloat16 weights round, but orders and noise are those of float32."""
    full = _generate(tmp_path / "full", tiny_model)
    half = _generate(tmp_path / "half", [*tiny_model, "trainer.precision=bf16-true"])
    other = _generate(tmp_path / "other", [*tiny_model, "seed=1"])
    assert np.abs(half - full).mean() < 0.25 * np.abs(other - full).mean()


def test_run_folder_is_complete(tiny_model: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _generate(folder, [*tiny_model, "dataset.labels=[3,7]", "seed=5"])
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert [path.name for path in sorted((folder / "images").iterdir())] == [
        image_name(index) for index in range(NUM_IMAGES)
    ]
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 5 and record["command"] == "generate"
    assert record["config"]["dataset"]["labels"] == [3, 7]
    assert record["config"] == OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert record["versions"]["torch"] == torch.__version__
    assert record["git_revision"] is None or len(record["git_revision"].removesuffix("-dirty")) == 40
    assert record["hardware"]["cpu_count"] >= 1 and record["hardware"]["torch_threads"] >= 1
    assert record["seconds"] > 0
    assert record["seconds_per_image"] * record["images_per_second"] == pytest.approx(1)
    assert record["seconds_per_image"] * NUM_IMAGES == pytest.approx(record["seconds"])
    with Image.open(folder / "grid.png") as grid:
        assert grid.size[0] == grid.size[1] >= 4 * 64


def test_grid_shows_the_images_in_order(tiny_model: list[str], tmp_path: Path) -> None:
    images = _generate(tmp_path, tiny_model)
    grid = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    # Two pixels of gap, everything enlarged twice: image 5 is in the second row and column.
    row = column = (2 + 34) * 2
    assert np.array_equal(grid[row : row + 64 : 2, column : column + 64 : 2], images[5])


def test_labels_take_turns() -> None:
    dataset = DatasetSettings("digits", num_images=6, num_classes=10, labels=[4, 8], images_per_class=2)
    requests = GenerationRequests(dataset, batch_size=4)
    indices, labels = (torch.cat(parts) for parts in zip(*requests.predict_dataloader(), strict=True))
    assert indices.tolist() == [0, 1, 2, 3, 4, 5] and labels.tolist() == [4, 4, 8, 8, 4, 4]


def _rerun(folder: Path, tiny_model: list[str], *overrides: str) -> Any:
    config = compose_settings(
        "generate", [*tiny_model, "dataset.num_images=2", f"output_dir={folder}", *overrides]
    )
    return generate(config)


def test_same_config_takes_its_folder_over(tiny_model: list[str], tmp_path: Path) -> None:
    _rerun(tmp_path, tiny_model)
    before = _pixels(tmp_path, 2)
    (tmp_path / "images" / ".000001.png.123.tmp").write_text("half an image")
    # More images, other batches and another logger are still the same images.
    _rerun(tmp_path, tiny_model, "dataset.num_images=3", "trainer.batch_size=2", "logger=csv")
    assert np.array_equal(_pixels(tmp_path, 3)[:2], before)
    assert len(list((tmp_path / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=1", "seed is 0 there and 1 here"),
        ("sampler.num_iter=5", "sampler.num_iter is 4 there and 5 here"),
        ("dataset.num_images=1", "images up to index 1, more than dataset.num_images=1"),
    ],
)
def test_images_of_another_config_are_not_mixed(
    override: str, named: str, tiny_model: list[str], tmp_path: Path
) -> None:
    _rerun(tmp_path, tiny_model)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=named):
        _rerun(tmp_path, tiny_model, override)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_of_adaptive_refreshes_belongs_to_one_batch_size(
    tiny_model: list[str], tmp_path: Path
) -> None:
    adaptive = ["cache=token", "cache/refresh=adaptive"]
    _rerun(tmp_path, tiny_model, *adaptive, "trainer.batch_size=1")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size is 1 there and 2 here\); choose another"):
        _rerun(tmp_path, tiny_model, *adaptive, "trainer.batch_size=2")
    _rerun(tmp_path, tiny_model, *adaptive, "trainer.batch_size=1", "dataset.num_images=3")


def test_images_of_unknown_origin_are_not_mixed(tiny_model: list[str], tmp_path: Path) -> None:
    _rerun(tmp_path, tiny_model)
    (tmp_path / "run.json").unlink()
    _rerun(tmp_path, tiny_model)  # its config still says what they are
    for name in ("run.json", "config.yaml"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"has images but no config\.yaml"):
        _rerun(tmp_path, tiny_model)


def test_a_finished_run_that_is_repeated_keeps_its_seconds(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    """As a requeued job repeats it."""
    arguments = [*tiny_model, "dataset.num_images=4", f"output_dir={tmp_path}", "generate.resume=true"]
    records = []
    for _ in range(2):
        assert run_here("generate", *arguments).status == 0
        records.append(json.loads((tmp_path / "run.json").read_text()))
    first, again = records
    assert first["seconds"] > 0 and first["num_sampled"] == 4
    for key in ("seconds", "seconds_per_image", "images_per_second", "num_sampled", "batch_size"):
        assert again[key] == first[key], key
