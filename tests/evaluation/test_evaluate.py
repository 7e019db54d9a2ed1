"""The evaluate command on a tiny random model: files, agreement of its ways in, refusals."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.baseline import Sampled, open_baseline
from mar_accel.evaluation.result import read_steps
from mar_accel.evaluation.run import evaluate
from mar_accel.evaluation.unaccelerated import unaccelerated
from mar_accel.metrics.catalogue import EQUAL_IMAGES_PSNR, METRIC_KEYS
from mar_accel.runs.folder import claim_run_folder
from mar_accel.runs.identity import Identity
from mar_accel.utils.images import image_name
from mar_accel.weights.sources import embedded_folder

SETTINGS = [
    "dataset.num_images=41",  # odd: two processes get different shares
    "trainer.batch_size=20",
    "evaluate.fidelity_images=8",
    "evaluate.timing_rounds=1",
    "evaluate.baseline_sampler.num_iter=5",
    "evaluate.baseline_sampler.num_diffusion_steps=4",
]


def _evaluate(folder: Path, tiny: list[str], *overrides: str) -> dict[str, Any]:
    evaluate(
        compose_settings(
            "evaluate",
            [*tiny, *SETTINGS, f"output_dir={folder}", f"reference.cache_dir={folder.parent}", *overrides],
        )
    )
    return json.loads((folder / "metrics.json").read_text())


def _quality(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers that depend on the images alone."""
    keys = ("fid", "kid", "inception_score", "precision", "recall", "recognised", "num_images")
    return {key: metrics[key] for key in keys}


@pytest.fixture(scope="module")
def run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, _evaluate(folder, tiny)


def test_metrics_json_has_every_key_and_plausible_numbers(run: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = run
    assert set(METRIC_KEYS) <= set(metrics)
    missing = [key for key in METRIC_KEYS if metrics[key] is None]
    # LPIPS needs an extra, and CMMD the features of CLIP.
    assert missing == ["cmmd", "lpips"]
    assert metrics["num_images"] == 41 and metrics["fidelity_images"] == 8
    assert metrics["throughput_img_s"] == pytest.approx(1 / metrics["latency_s_per_image"])
    assert 0 < metrics["psnr"] < EQUAL_IMAGES_PSNR
    assert metrics["speedup_min"] <= metrics["speedup"] <= metrics["speedup_max"]
    assert metrics["peak_memory_bytes"] > 1e6
    assert sum(metrics["time_shares"].values()) == pytest.approx(1)
    assert all(share >= 0 for share in metrics["time_shares"].values())
    recorded = json.loads((folder / "run.json").read_text())["identity"]
    assert metrics["identity"] == {key: recorded[key] for key in metrics["identity"]}
    assert len(set(metrics["identity"].values())) == 4


def test_the_run_folder_holds_pictures_and_the_steps(run: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = run
    for name in ("samples.png", "comparison.png", "fidelity.png", "grid.png"):
        assert min(Image.open(folder / name).size) > 100
    with (folder / "ar_steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert sum(int(step["tokens"]) for step in steps) == 256 and len(steps) == 4
    assert sum(float(step["tflops"]) for step in steps) == pytest.approx(
        metrics["tflops_per_image"], rel=0.01
    )
    assert all(float(step["cache_hits"]) == pytest.approx(0) for step in steps)
    assert all(float(step["head_seconds"]) > 0 for step in steps)
    with (folder / "fidelity.csv").open() as file:
        psnr = [float(row["psnr"]) for row in csv.DictReader(file)]
    assert sum(psnr) / len(psnr) == pytest.approx(metrics["psnr"]) and len(psnr) == 8


def test_images_of_a_run_of_an_npz_and_in_process_agree(
    run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    folder, metrics = run
    from_run = _evaluate(tmp_path / "a", tiny, f"evaluate.images={folder}", "evaluate.baseline=none")
    assert _quality(from_run) == pytest.approx(_quality(metrics), rel=1e-4)
    files = sorted((folder / "images").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    np.savez(tmp_path / "images.npz", arr_0=pixels, arr_1=np.arange(41) % 10)
    from_npz = _evaluate(tmp_path / "b", tiny, f"evaluate.images={tmp_path / 'images.npz'}")
    assert _quality(from_npz) == pytest.approx(_quality(metrics), rel=1e-4)
    from_folder = _evaluate(tmp_path / "c", tiny, f"evaluate.images={folder / 'images'}")
    assert from_folder["fid"] == pytest.approx(metrics["fid"], rel=1e-4)
    assert from_folder["recognised"] is None  # nobody knows what a folder's images should show


def test_batch_size_does_not_change_the_quality(
    run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    metrics = _evaluate(tmp_path, tiny, "trainer.batch_size=7", "evaluate.baseline=none")
    assert _quality(metrics) == pytest.approx(_quality(run[1]), rel=1e-3)
    assert metrics["psnr"] is None and metrics["speedup"] is None


def test_a_baseline_folder_gives_the_fidelity_of_a_generated_one(
    run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    plain = _evaluate(tmp_path / "plain", tiny, "sampler.num_iter=5", "sampler.num_diffusion_steps=4")
    assert plain["psnr"] == EQUAL_IMAGES_PSNR and plain["speedup"] == 1  # it is the baseline itself
    metrics = _evaluate(tmp_path / "fast", tiny, f"evaluate.baseline={tmp_path / 'plain'}")
    for key in ("psnr", "ssim", "latent_mse"):
        assert metrics[key] == pytest.approx(run[1][key], rel=1e-3)


def test_the_baseline_keeps_seed_and_guidance_and_is_unaccelerated() -> None:
    config = compose_settings("evaluate", ["sampler.guidance_scale=3.5", "sampler.num_iter=9", "seed=4"])
    baseline = unaccelerated(config)
    assert baseline.sampler["guidance_scale"] == 3.5 and baseline.seed == 4
    assert baseline.sampler["num_iter"] == 64 and baseline.sampler["num_diffusion_steps"] == 100
    longer = unaccelerated(config.with_(evaluate={"baseline_sampler": {"num_iter": 256}}))
    assert longer.sampler["num_iter"] == longer.sampler["step_sizes"]["num_iter"] == 256
    assert config.sampler["num_iter"] == 9


def test_the_hash_names_what_is_computed() -> None:
    def identity(*overrides: str) -> Identity:
        return Identity.of(compose_settings("evaluate", list(overrides)))

    def name(*overrides: str) -> str:
        return identity(*overrides).evaluation_hash

    assert name() == name("output_dir=elsewhere", "logger=none", "reference.cache_dir=/tmp")
    assert name() == name("sampler.guidance_scale=4") == name("sampler.guidance_scale=4.0")
    # A default of the model counts where it is used.
    assert name("model.sampling.guidance_scale=3", "sampler.guidance_scale=4") == name()
    assert name("model.sampling.head_refresh_below=0") == name()
    assert name("cache=head", "model.sampling.head_refresh_below=0") != name("cache=head")
    others = ("seed=1", "sampler.num_iter=32", "model.weights=random", "evaluate.images=/folder")
    assert len({name(), *(name(other) for other in others)}) == 5
    few, many = (identity(f"dataset.num_images={number}") for number in (100, 200))
    assert few.evaluation_hash != many.evaluation_hash and few.images_hash == many.images_hash


@pytest.mark.parametrize(
    ("override", "error", "text"),
    [
        ("dataset.num_images=1", ConfigError, "dataset.num_images must be ≥ 2"),
        ("evaluate.fidelity_images=-1", ConfigError, "evaluate.fidelity_images must be ≥ 0"),
        ("evaluate.fidelity_images=abc", ConfigError, "evaluate.fidelity_images must be an integer"),
        ("evaluate.timing_rounds=1.5", ConfigError, "evaluate.timing_rounds must be an integer"),
        ("+evaluate.foo=1", ConfigError, "evaluate.foo is not a key of the config"),
        ("evaluate.objective=fidd", ConfigError, "evaluate.objective=fidd is not a metric"),
        ("+evaluate.baseline_sampler.steps=3", ConfigError, r"evaluate\.baseline_sampler\.steps"),
        ("evaluate.images=/nowhere", DataError, "/nowhere"),
        ("evaluate.baseline=/nowhere", DataError, "/nowhere"),
        ("reference.source=/nowhere.npz", DataError, "/nowhere.npz"),
        ("features.weights=/nowhere.safetensors", ConfigError, "/nowhere.safetensors"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    override: str, error: type[Exception], text: str, tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        _evaluate(tmp_path / "run", tiny, override)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="says what is missing where it is missing")
def test_lpips_without_torchvision_is_refused_before_sampling(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.lpips=true needs torchvision"):
        _evaluate(tmp_path / "run", tiny, "evaluate.lpips=true")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "dataset.labels=[3]", "model.architecture.embed_dim=16", "sampler.guidance_scale=3"],
)
def test_a_baseline_of_other_samples_is_refused(
    override: str, run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0].rsplit(".", 1)[0]):
        _evaluate(tmp_path / "run", tiny, override, f"evaluate.baseline={run[0]}")
    assert not (tmp_path / "run").exists()


def _stored_run(folder: Path, *overrides: str) -> Path:
    """A run folder with images of nothing, whose record says what they would be of."""
    (folder / "images").mkdir(parents=True)
    for index in range(4):
        pixels = np.full((32, 32), 60 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index:06d}.png")
    config = compose_settings("generate", list(overrides)).plain()
    (folder / "run.json").write_text(json.dumps({"config": config, "git_revision": "abc"}))
    return folder


@pytest.mark.parametrize("part", ["", "images"])
def test_images_are_not_evaluated_into_their_own_folder(part: str, tiny: list[str], tmp_path: Path) -> None:
    folder = _stored_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"output_dir=\S+ is the folder of evaluate\.images="):
        _evaluate(folder, tiny, f"evaluate.images={tmp_path}/../{tmp_path.name}/run/{part}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_images_of_a_run_are_paired_by_what_their_run_recorded(tiny: list[str], tmp_path: Path) -> None:
    five, other_five = _stored_run(tmp_path / "a", "seed=5"), _stored_run(tmp_path / "b", "seed=5")
    zero = _stored_run(tmp_path / "c", "seed=0")
    metrics = _evaluate(tmp_path / "run", tiny, f"evaluate.images={five}", f"evaluate.baseline={other_five}")
    assert metrics["psnr"] == EQUAL_IMAGES_PSNR
    assert metrics["latent_mse"] is None  # generate keeps no tokens
    assert any("no latent MSE: 4 images are compared" in warning for warning in metrics["warnings"])
    save_file({"tokens": torch.zeros(3, 2, 1)}, five / "tokens.safetensors")
    save_file({"tokens": torch.zeros(4, 2, 1)}, other_five / "tokens.safetensors")
    metrics = _evaluate(tmp_path / "run", tiny, f"evaluate.images={five}", f"evaluate.baseline={other_five}")
    assert any("only 3 have known tokens here and 4 in" in warning for warning in metrics["warnings"])
    with pytest.raises(ConfigError, match=r"with seed=0 but evaluate\.images=\S+ with 5; use"):
        _evaluate(tmp_path / "none", tiny, f"evaluate.images={five}", f"evaluate.baseline={zero}")
    assert not (tmp_path / "none").exists()


def test_a_baseline_of_other_weights_is_refused_however_they_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.pth", "other.pth"):
        (tmp_path / name).write_text(name)

    def pairs(there: str, here: str) -> bool:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        _stored_run(folder, f"model.weights={there}")
        config = compose_settings("evaluate", [f"model.weights={here}", f"evaluate.baseline={folder}"])
        try:
            open_baseline(config.evaluate, Sampled.of(config, Identity.of(config)), "this run has", [0])
        except ConfigError as error:
            assert "model.weights" in str(error)
            return False
        return True

    assert pairs("one.pth", str(tmp_path / "one.pth")) and pairs("digits", str(embedded_folder("digits")))
    assert not pairs("one.pth", "other.pth") and not pairs("digits", "one.pth")
    assert not pairs("random", "digits") and not pairs("owner/name", "owner/another")
    # Recorded by a command that ran elsewhere.
    assert pairs("../gone/two.pth", "/models/gone/two.pth") and not pairs("/gone/two.pth", "/models/two.pth")


def test_a_run_that_was_cut_off_goes_on(
    run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    """Of 80 images 70 are there, and the tokens of the first: two batches of 7 at a time are left to do."""
    settings = ("dataset.num_images=80", "evaluate.baseline=none", "evaluate.profile=false")
    whole = _evaluate(tmp_path, tiny, *settings)
    (tmp_path / "metrics.json").unlink()
    images = sorted((tmp_path / "images").glob("*.png"))
    for file in images[70:]:
        file.unlink()
    before = {file: file.stat().st_mtime_ns for file in images[:70]}
    record = json.loads((tmp_path / "run.json").read_text())
    assert "earlier_revisions" not in record
    (tmp_path / "run.json").write_text(json.dumps(record | {"git_revision": "old"}))
    # Cut off again, by a kill that leaves no run.json: what made the images is known all the same.
    cut_off = compose_settings("evaluate", [*tiny, *SETTINGS, *settings])
    claim_run_folder(tmp_path, cut_off, Identity.of(cut_off))
    (tmp_path / "run.json").unlink()
    resumed = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true", "trainer.batch_size=7")
    assert _quality(resumed) == pytest.approx(_quality(whole), rel=1e-3)
    kept = [file.stat().st_mtime_ns == time for file, time in before.items()]
    assert all(kept)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["earlier_revisions"] == ["old"] and record["git_revision"] != "old"
    # Without their tokens the first ones are sampled again, in whole batches of 20.
    (tmp_path / "tokens.safetensors").unlink()
    before = {file: file.stat().st_mtime_ns for file in images}
    assert _quality(_evaluate(tmp_path, tiny, *settings, "evaluate.resume=true")) == _quality(whole)
    kept = [file.stat().st_mtime_ns == time for file, time in before.items()]
    assert not any(kept) and not list(tmp_path.glob(".tokens"))
    # All images are made anew.
    _evaluate(tmp_path, tiny, *settings)
    assert "earlier_revisions" not in json.loads((tmp_path / "run.json").read_text())
    assert not list(tmp_path.glob(".identity*"))


def test_where_every_image_is_there_nothing_is_sampled(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers whose computation has changed are had again from the images and tokens of the run."""
    settings = ("evaluate.baseline=none", "evaluate.profile=false")
    whole = _evaluate(tmp_path, tiny, *settings)
    tokens = load_file(tmp_path / "tokens.safetensors")["tokens"]
    (tmp_path / "metrics.json").unlink()
    monkeypatch.setattr("lightning.pytorch.Trainer.predict", lambda *_, **__: pytest.fail("sampled"))
    again = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true")
    assert _quality(again) == pytest.approx(_quality(whole), rel=1e-6)
    assert torch.equal(load_file(tmp_path / "tokens.safetensors")["tokens"], tokens)
    assert again["latency_s_per_image"] is None and again["peak_flops"] > 0
    assert any("no speed was measured" in warning for warning in again["warnings"])
    # What an evaluation has measured is not lost where a later one only looks at its images.
    (tmp_path / "metrics.json").write_text(json.dumps(whole))
    again = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true")
    for key in ("latency_s_per_image", "throughput_img_s", "peak_memory_bytes", "tflops_per_image"):
        assert again[key] == whole[key] is not None
    # A speed is never shown for conditions that it was not measured under.
    again = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true", "trainer.batch_size=7")
    assert again["latency_s_per_image"] is None and again["tflops_per_image"] == whole["tflops_per_image"]


def test_files_of_an_earlier_evaluation_do_not_outlive_it(tiny: list[str], tmp_path: Path) -> None:
    few = ("dataset.num_images=8", "trainer.batch_size=4", "evaluate.timing_rounds=0", "evaluate.resume=true")
    compared = ("comparison.png", "fidelity.csv", "fidelity.png")
    _evaluate(tmp_path, tiny, *few)
    steps = read_steps(tmp_path / "ar_steps.csv")
    assert all((tmp_path / name).is_file() for name in compared)
    _evaluate(tmp_path, tiny, *few)
    assert read_steps(tmp_path / "ar_steps.csv") == steps != [], "measured under the same conditions"
    _evaluate(tmp_path, tiny, *few, "trainer.batch_size=8", "evaluate.fidelity_images=0")
    assert not any((tmp_path / name).exists() for name in ("ar_steps.csv", *compared))


def test_flops_of_adaptive_refresh_are_not_those_of_a_schedule_that_nobody_ran(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptive = ("cache=token", "cache/refresh=adaptive", "cache.refresh.threshold=1e-9")
    settings = (*adaptive, "evaluate.baseline=none", "evaluate.profile=false", "cache.refresh.warmup_steps=1")
    whole = _evaluate(tmp_path, tiny, *settings)
    assert whole["tflops_per_image"] > 0
    monkeypatch.setattr("lightning.pytorch.Trainer.predict", lambda *_, **__: pytest.fail("sampled"))
    again = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true")
    assert again["tflops_per_image"] == whole["tflops_per_image"]
    (tmp_path / "metrics.json").unlink()
    again = _evaluate(tmp_path, tiny, *settings, "evaluate.resume=true")
    assert again["tflops_per_image"] is None and any("no FLOPs" in text for text in again["warnings"])


def test_a_logger_that_is_not_there_is_refused_before_anything_is_sampled(
    tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="nothing_here"):
        _evaluate(tmp_path / "run", tiny, "logger._target_=nothing_here.Logger")
    assert not (tmp_path / "run").exists()


def test_a_single_image_is_refused_before_anything_is_written(tiny: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", arr_0=np.zeros((1, 32, 32, 1), np.uint8))
    with pytest.raises(DataError, match=r"evaluate\.images=\S+one\.npz has a single image; metrics need"):
        _evaluate(tmp_path / "out", tiny, f"evaluate.images={tmp_path / 'one.npz'}")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_of_images_spares_the_record_of_another_run(
    run: tuple[Path, dict[str, Any]], tiny: list[str], tmp_path: Path
) -> None:
    record = (run[0] / "run.json").read_bytes()
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((4, 32, 32, 1), np.uint8))
    with pytest.raises(ConfigError, match="with its own images"):
        _evaluate(run[0], tiny, f"evaluate.images={tmp_path / 'images.npz'}")
    assert (run[0] / "run.json").read_bytes() == record


def test_images_of_another_config_are_not_taken_for_this_one(
    run: tuple[Path, dict[str, Any]], tiny: list[str]
) -> None:
    with pytest.raises(ConfigError, match="seed is 0 there and 5 here"):
        _evaluate(run[0], tiny, "seed=5", "evaluate.resume=true")


def _in_processes(
    start: Callable[..., subprocess.Popen[str]], output_dir: Path, overrides: list[str]
) -> dict[str, Any]:
    """The metrics of an evaluation that is started as a command."""
    process = start(output_dir, "evaluate", *overrides)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    metrics: dict[str, Any] = json.loads((output_dir / "metrics.json").read_text())
    return metrics


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(
    run: tuple[Path, dict[str, Any]],
    start: Callable[..., subprocess.Popen[str]],
    tiny: list[str],
    tmp_path: Path,
) -> None:
    processes = ["trainer=ddp_cpu", "trainer.batch_size=5", f"output_dir={tmp_path}"]
    metrics = _in_processes(start, tmp_path, [*tiny, *SETTINGS, *processes])
    assert _quality(metrics) == pytest.approx(_quality(run[1]), rel=1e-3)
    assert metrics["psnr"] == pytest.approx(run[1]["psnr"], rel=1e-3)
    assert metrics["num_devices"] == 2
    # Resumed by two processes, when a batch of each is missing.
    for index in range(10):
        (tmp_path / "images" / image_name(index)).unlink()
    resumed = _in_processes(start, tmp_path, [*tiny, *SETTINGS, *processes, "evaluate.resume=true"])
    assert _quality(resumed) == _quality(metrics) and resumed["psnr"] == metrics["psnr"]
    assert OmegaConf.load(tmp_path / "config.yaml").trainer.devices == 2


@pytest.mark.long
def test_two_processes_with_nothing_left_to_sample(
    run: tuple[Path, dict[str, Any]],
    start: Callable[..., subprocess.Popen[str]],
    tiny: list[str],
    tmp_path: Path,
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    processes = ["trainer=ddp_cpu", f"output_dir={tmp_path / 'run'}", "evaluate.resume=true"]
    resumed = _in_processes(start, tmp_path / "run", [*tiny, *SETTINGS, *processes])
    assert _quality(resumed) == pytest.approx(_quality(run[1]), rel=1e-3)
    assert any("all images exist from an earlier run" in warning for warning in resumed["warnings"])


def _no_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(*arguments: Any, **options: Any) -> None:
        raise AssertionError("something was sampled")

    monkeypatch.setattr(pl.Trainer, "predict", sampled)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_baseline_of_another_size_is_refused_before_sampling(
    mode: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_sampling(monkeypatch)
    (tmp_path / "base").mkdir()
    for index in range(8):
        Image.new(mode, (16, 32)).save(tmp_path / "base" / image_name(index))
    with pytest.raises(DataError, match=r"^evaluate\.baseline=.* has images of .×32×16 .* run makes 1×32×32"):
        _evaluate(tmp_path / "run", tiny, f"evaluate.baseline={tmp_path / 'base'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/below", "/proc/nothing"])
def test_a_folder_for_baselines_that_cannot_be_written_is_refused_before_sampling(
    folder: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_sampling(monkeypatch)
    with pytest.raises(ConfigError, match=r"^evaluate\.baseline_dir="):
        _evaluate(tmp_path / "run", tiny, f"evaluate.baseline_dir={folder}")
    assert not (tmp_path / "run").exists()


def test_a_misspelt_group_with_an_optional_default_is_refused(tiny: list[str], tmp_path: Path) -> None:
    for override in ("features=imagnet", "reference=digit"):
        with pytest.raises(ConfigError, match=f"^{override} is unknown; choose one of "):
            _evaluate(tmp_path / "run", tiny, override)


def test_a_logger_that_fails_at_the_end_costs_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the server is gone\nmore about it")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    metrics = _evaluate(tmp_path / "run", tiny, "logger=csv", "evaluate.baseline=none", "features=none")
    assert metrics["num_images"] == 41 and (tmp_path / "run" / "run.json").is_file()
    said = capsys.readouterr().err
    assert "warning: the logger has failed (the server is gone); all results are in" in said
