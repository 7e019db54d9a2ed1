"""A batch that does not fit into memory is sampled in parts, with the same images and without a speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mar_accel.data.image_sets import open_images
from mar_accel.errors import BatchSizeError, ExitCode
from mar_accel.inference.session import Prediction, Session
from mar_accel.metrics.digit_features import DigitFeatures
from mar_accel.metrics.features import Features
from mar_accel.sampling import decode as decode_module
from mar_accel.utils.images import to_pil
from mar_accel.utils.out_of_memory import is_out_of_memory

FEW = ["dataset.num_images=8", "trainer.batch_size=8"]
ADAPTIVE = ["cache=lazymar", "cache/refresh=adaptive"]
NO_MORE = torch.OutOfMemoryError("no more")
ON_CPU = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Lets batches above a size run out of memory in mid-decode; returns the list of sizes that are tried."""

    def register(largest: int, error: BaseException = NO_MORE) -> list[int]:
        sizes: list[int] = []
        sample, check = Session.sample, decode_module.check_chain

        def note(self: Session, indices: Any, *args: Any) -> Prediction:
            sizes.append(len(indices))
            return sample(self, indices, *args)

        def check_memory(solver: Any, tokens: Any, noise: Any) -> None:
            # FLOPs are counted without memory.
            if not noise.is_meta and sizes[-1] > largest:
                raise error
            check(solver, tokens, noise)

        monkeypatch.setattr(Session, "sample", note)
        monkeypatch.setattr(decode_module, "check_chain", check_memory)
        return sizes

    return register


def _pixels(folder: Path) -> np.ndarray:
    return open_images(folder).first(8).numpy().astype(int)


@pytest.mark.parametrize("cache", ["none", "lazymar"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no more"), RuntimeError(ON_CPU), MemoryError()],
    ids=lambda e: type(e).__name__,
)
def test_batches_are_halved_and_the_images_are_the_same(
    error: BaseException, cache: str, fits: Any, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = [*tiny_model, f"cache={cache}", "dataset.num_images=8"]
    plain = run_here("generate", *arguments, "trainer.batch_size=2", f"output_dir={tmp_path / 'plain'}")
    assert plain.status == ExitCode.DONE
    sizes = fits(3, error)
    outcome = run_here("generate", *arguments, "trainer.batch_size=5", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.DONE, outcome.stderr
    assert sizes == [5, 2, 2, 1, 2, 1], "what does not fit is tried once"
    assert "note: 5 images at a time do not fit into the memory of cpu; going on with 2." in outcome.stderr
    assert np.abs(_pixels(tmp_path / "run") - _pixels(tmp_path / "plain")).max() <= 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["batch_size"] == 2 and record["config"]["trainer"]["batch_size"] == 5
    assert "seconds_per_image" not in record and "images/s" not in outcome.stdout


def test_an_evaluation_of_divided_batches_claims_no_speed(
    fits: Any, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    fits(4)
    arguments = ["reference.augmentations=0", "evaluate.timing_rounds=1", "evaluate.fidelity_images=8"]
    outcome = run_here("evaluate", *tiny_model, *FEW, *arguments, f"output_dir={tmp_path}", "cache=lazymar")
    assert outcome.status == ExitCode.DONE, outcome.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for key in ("latency_s_per_image", "throughput_img_s", "speedup", "peak_memory_bytes"):
        assert metrics[key] is None, key
    assert metrics["batch_size"] == 4 == json.loads((tmp_path / "run.json").read_text())["batch_size"]
    assert metrics["fid"] is not None and metrics["psnr"] is not None and metrics["time_shares"]
    assert any("did not fit into memory" in warning for warning in metrics["warnings"])


@pytest.mark.parametrize(
    ("largest", "arguments", "words"),
    [
        (0, [], "a single image does not fit into the memory of cpu; use a smaller model"),
        (
            4,
            ADAPTIVE,
            "since cache.refresh decides for all images of a batch together; lower",
        ),
    ],
    ids=["one image", "adaptive"],
)
def test_what_cannot_be_divided_is_one_sentence(
    largest: int,
    arguments: list[str],
    words: str,
    fits: Any,
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    fits(largest)
    outcome = run_here("generate", *tiny_model, *FEW, *arguments, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.REFUSED and words in outcome.stderr
    assert "Traceback" not in outcome.stderr and not (tmp_path / "run" / "run.json").exists()


def test_a_benchmark_is_not_divided(fits: Any, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    fits(4)
    arguments = ["benchmark.only=[mar]", "benchmark.rounds=1", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("benchmark", *tiny_model, *FEW, *arguments)
    assert outcome.status == ExitCode.REFUSED and "since its speed is measured" in outcome.stderr


def test_other_errors_are_not_taken_for_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert issubclass(BatchSizeError, ValueError)


@pytest.fixture
def judge_fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Lets the feature network run out of memory above a size; returns the list of sizes that are tried."""

    def register(largest: int) -> list[int]:
        sizes: list[int] = []
        forward = DigitFeatures.forward

        def check_memory(self: DigitFeatures, images: torch.Tensor) -> Features:
            sizes.append(len(images))
            if len(images) > largest:
                raise NO_MORE
            return forward(self, images)

        monkeypatch.setattr(DigitFeatures, "forward", check_memory)
        return sizes

    return register


JUDGED = ["evaluate.baseline=none", "evaluate.profile=false", "reference.augmentations=0"]


def test_features_are_computed_in_halves(
    judge_fits: Any, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = [*tiny_model, *FEW, *JUDGED, f"reference.cache_dir={tmp_path}"]
    plain = run_here("evaluate", *arguments, f"output_dir={tmp_path / 'plain'}")
    assert plain.status == ExitCode.DONE, plain.stderr
    sizes = judge_fits(3)
    outcome = run_here("evaluate", *arguments, f"output_dir={tmp_path / 'run'}")
    # One image is tried before anything is sampled.
    assert outcome.status == ExitCode.DONE and sizes == [1, 8, 4, 2, 2, 2, 2]
    words = "note: features of 4 images at a time do not fit into the memory of cpu; going on with 2."
    assert words in outcome.stderr
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "run")]
    assert metrics[1]["fid"] == pytest.approx(metrics[0]["fid"], rel=1e-4)
    # The images were sampled in whole batches, so their speed is known.
    assert metrics[1]["latency_s_per_image"] is not None and metrics[1]["batch_size"] == 8


@pytest.mark.parametrize("arguments", [[], ["evaluate.images=images"], ["reference.cache_dir=empty"]])
def test_features_of_an_image_that_do_not_fit_are_one_sentence(
    arguments: list[str],
    judge_fits: Any,
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for index in range(2):
        to_pil(torch.zeros(1, 32, 32)).save(tmp_path / "images" / f"{index}.png")
    judge_fits(0)
    outcome = run_here("evaluate", *tiny_model, *FEW, *JUDGED, *arguments, f"output_dir={tmp_path / 'run'}")
    assert (
        outcome.status == ExitCode.REFUSED and "the features of a single image do not fit" in outcome.stderr
    )
    assert "Traceback" not in outcome.stderr and not (tmp_path / "run" / "metrics.json").exists()
