"""Runs that were never sampled, and their report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.reporting.report_run import write_report
from mar_accel.runs.folder import write_config
from mar_accel.runs.record import run_record
from mar_accel.utils.json_files import write_json


def finished(folder: Path, number: int, *overrides: str, **numbers: float) -> Path:
    """A finished evaluation that was never sampled, with two small images and AR steps."""
    (folder / "images").mkdir(parents=True)
    # The statistics of plain scans are made in seconds, once for all tests.
    judge = ["reference.augmentations=0", f"reference.cache_dir={folder.parents[1] / 'statistics'}"]
    settings = compose_settings("evaluate", [*overrides, *judge, f"output_dir={folder}"])
    write_json({**run_record(settings, identity={}), "overrides": list(overrides)}, folder / "run.json")
    write_config(settings, folder)
    metrics = {
        **{"num_images": 100, "fid": 4.0 - number / 10, "fid_std_error": 0.2, "recognised": 0.9},
        **{"tflops_per_image": 0.01 * (number + 1), "latency_s_per_image": 0.1 * (number + 1)},
        **{"tflops_encoder": 0.002, "tflops_decoder": 0.004, "tflops_head": 0.004, **numbers},
    }
    write_json({**metrics, "time_shares": {"encoder": 0.4, "head": 0.6}}, folder / "metrics.json")
    (folder / "ar_steps.csv").write_text(f"index,tokens,diffusion_steps\n0,{10 + number},20\n1,246,10\n")
    for index in range(2):
        Image.new("L", (32, 32), 40 * number % 256).save(folder / "images" / f"{index:06d}.png")
    return folder


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """``finished`` for tests."""
    return finished


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve settings: two caches, three K, two T."""
    folder = tmp_path_factory.mktemp("sweep")
    grid = [(cache, k, t) for cache in ("none", "lazymar") for k in (16, 32, 64) for t in (20, 50)]
    for number, (cache, k, t) in enumerate(grid):
        keys = (f"cache={cache}", f"sampler.num_iter={k}", f"sampler.num_diffusion_steps={t}")
        finished(folder / f"run{number}", number, *keys)
    return folder


@pytest.fixture(scope="session")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    words = [f"output_dir={folder}", f"report.folders=['{sweep}']", "report.title='A <sweep> & more'"]
    write_report(compose_settings("report", words))
    return folder
