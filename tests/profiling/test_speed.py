"""Latency, speedup, memory and the matrix product's speed."""

from __future__ import annotations

import pytest
import torch

from mar_accel.config.settings import TrainerSettings
from mar_accel.profiling import speed
from mar_accel.profiling.speed import PeakMemory, gemm_peak, latency_summary, machine_peak, speedup


def test_latency_is_a_median_with_its_range() -> None:
    assert latency_summary([0.5, 4.0, 0.25]) == {
        "latency_s_per_image": 0.5,
        "latency_s_per_image_min": 0.25,
        "latency_s_per_image_max": 4.0,
        "throughput_img_s": 2.0,
    }


def test_speedup_pairs_the_rounds() -> None:
    """A machine that grows twice as slow from one round to the next leaves every ratio as it is."""
    assert speedup([4.0, 8.0], [2.0, 4.0]) == {"speedup": 2, "speedup_min": 2, "speedup_max": 2}


def test_peak_memory_sees_what_was_freed_again() -> None:
    memory = PeakMemory("cpu").start()
    before = memory.read()
    block = torch.ones(75_000_000)  # 300 MB, touched
    del block
    assert memory.read() - before > 200e6


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 256), (1e-3, 1024)], ids=["slow", "fast"])
def test_large_products_are_left_out_where_they_take_seconds(
    seconds: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On many CPUs, a product in float16 does."""
    clock = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: seconds * next(clock))
    assert gemm_peak("cpu", torch.float32, repeats=2) == pytest.approx(2 * size**3 / seconds)


def test_gemm_peak_is_between_a_pocket_calculator_and_a_cluster() -> None:
    assert 1e8 < gemm_peak("cpu", torch.float32, size=256, repeats=3) < 1e15


def test_speedup_of_different_numbers_of_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        speedup([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("16-true", torch.float16),
        (32, torch.float32),
    ],
)
def test_the_peak_is_of_the_dtype_of_the_precision(
    precision: str | int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(speed, "gemm_peak", lambda *measured: seen.append(measured) or 1.0)
    assert machine_peak(TrainerSettings(accelerator="cpu", precision=precision)) == 1.0
    assert seen == [("cpu", dtype)]
