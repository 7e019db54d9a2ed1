"""The benchmark command: variants, ratios, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import compose_rows
from mar_accel.errors import ConfigError
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.profiling.benchmark import benchmark
from mar_accel.profiling.benchmark_result import compare, timing_table
from mar_accel.profiling.benchmark_variants import NoAutoencoder, build_variants, rows_of
from mar_accel.profiling.flops import FlopCount
from mar_accel.profiling.interleaved import Measured

TINY = [
    "model.weights=random",
    "model.architecture.embed_dim=16",
    "model.architecture.num_heads=2",
    "model.architecture.encoder_depth=1",
    "model.architecture.decoder_depth=1",
    "model.architecture.head_depth=1",
    "model.architecture.head_width=16",
    "sampler.num_diffusion_steps=3",
    "trainer.batch_size=2",
]


def test_the_record_holds_every_variant_and_its_ratio_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mar_accel.utils.progress.SECONDS_BETWEEN_LINES", 0)
    own = [
        "benchmark.only=[few,mar]",
        '+benchmark.variants.few=["sampler=mar","sampler.num_iter=2"]',
        "benchmark.rounds=2",
        f"output_dir={tmp_path}",
    ]
    shared = [*TINY, "sampler.num_iter=6"]
    timings = benchmark(compose_settings("benchmark", [*own, *shared]), [*own, *shared])
    assert "batches/s, 0:00:00 left" in capsys.readouterr().out
    record = json.loads((tmp_path / "benchmark.json").read_text())
    few, mar = record["variants"]
    assert (few["name"], mar["name"]) == ("few", "mar")
    assert (few["num_ar_steps"], mar["num_ar_steps"]) == (2, 6)
    assert len(few["seconds_per_image"]) == 2 and min(few["seconds_per_image"]) > 0
    assert len(mar["processor_seconds_per_image"]) == 2 and min(mar["processor_seconds_per_image"]) > 0
    assert few["speedup"] == few["speedup_min"] == few["speedup_max"] == 1
    ratios = [a / b for a, b in zip(few["seconds_per_image"], mar["seconds_per_image"], strict=True)]
    assert mar["speedup"] == pytest.approx(sum(ratios) / 2)
    assert mar["tflops_per_image"] > few["tflops_per_image"] > 0
    assert mar["share_of_peak"] == pytest.approx(mar["achieved_flops"] / mar["peak_flops"])
    assert record["hardware"]["torch_threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__
    assert timing_table("", timings).row_count == 2
    lines = (tmp_path / "benchmark.md").read_text().splitlines()
    assert lines[0].startswith("| variant | AR steps |") and lines[2].startswith("| few | 2 |")


def test_a_stopped_run_keeps_the_rounds_that_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([1e9, 2e9])
    monkeypatch.setattr("mar_accel.profiling.benchmark.machine_peak", lambda trainer: next(peaks))
    overrides = [*TINY, "sampler.num_iter=2"]
    own = [
        "benchmark.only=[mar]",
        "benchmark.rounds=3",
        "benchmark.warmup_rounds=0",
        f"output_dir={tmp_path}",
    ]
    with pytest.raises(StopIteration):
        benchmark(compose_settings("benchmark", [*own, *overrides]), overrides)
    (mar,) = json.loads((tmp_path / "benchmark.json").read_text())["variants"]
    assert len(mar["seconds_per_image"]) == 1 and mar["peak_flops"] == 2e9


def test_every_variant_of_the_config_composes() -> None:
    config = compose_settings("benchmark")
    rows = rows_of(config.benchmark)
    configs = compose_rows("benchmark", rows, TINY, "benchmark")
    assert rows[0].name == "mar"
    assert all(config.trainer.batch_size == 2 for config in configs)
    assert len({str(config.sampler) + str(config.cache) for config in configs}) == len(rows)


def test_variants_of_one_model_share_its_weights() -> None:
    described = compose_settings("benchmark").benchmark
    rows = rows_of(replace(described, only=["mar", "gtr"]))
    first, second = build_variants(
        rows, compose_rows("benchmark", rows, TINY, "benchmark"), autoencoder=False
    )
    assert first.session.model is second.session.model
    assert isinstance(first.session.autoencoder, NoAutoencoder)
    settings = compose_rows("benchmark", rows[:1], TINY, "benchmark")
    (timed,) = build_variants(rows[:1], settings, autoencoder=True)
    assert isinstance(timed.session.autoencoder, PixelAutoencoder)


def test_ratios_are_taken_round_by_round() -> None:
    """Rounds that grow slower leave the ratios as they are."""
    flops = FlopCount(condition=0, encoder=1, decoder=2, head=3, per_step=(6,))
    slow, fast = Measured([2.0, 4.0, 6.0], [], 20), Measured([1.0, 2.0, 3.0], [], 10)
    _, timing = compare(["slow", "fast"], [2, 1], [slow, fast], [flops, flops], 12.0)
    assert (timing.speedup, timing.speedup_min, timing.speedup_max) == (2, 2, 2)
    assert timing.achieved_flops == 3 and timing.share_of_peak == 0.25
    assert timing.record()["peak_memory_bytes"] == 10


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["benchmark.rounds=0"], r"benchmark\.rounds must be ≥ 1, got 0"),
        (["benchmark.warmup_rounds=-1"], r"benchmark\.warmup_rounds must be ≥ 0, got -1"),
        (["benchmark.only=[nonsense]"], "nonsense is not defined; choose one of mar, gtr,"),
        (["benchmark.only=[]"], "benchmark.only is empty"),
        (["benchmark.variants.gtr=gtr"], r"benchmark\.variants\.gtr must be a list, got 'gtr'"),
        (['benchmark.variants.gtr=["trainer.batch_size=7"]'], "trainer.batch_size=7, which must be the same"),
        (["trainer.accelerator=cuda"], "needs a GPU, but this machine has none"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "cuda" in overrides[0]:
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=sentence):
        benchmark(compose_settings("benchmark", [*TINY, *overrides, f"output_dir={tmp_path / 'run'}"]), TINY)
    assert not (tmp_path / "run").exists()
