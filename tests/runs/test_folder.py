"""A run folder has all images or no record: power cuts, damaged files, two runs at once, failed starts."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.config.settings import DatasetSettings, Settings
from mar_accel.data.image_sets import open_images
from mar_accel.data.requests import GenerationRequests
from mar_accel.data.run_images import image_indices
from mar_accel.errors import BatchSizeError, ConfigError, ExitCode, IncompleteError
from mar_accel.evaluation.run import evaluate
from mar_accel.inference import session as session_module
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.same_config import SameConfig
from mar_accel.inference.session import Prediction, Session
from mar_accel.runs.generation import build_callbacks, generate
from mar_accel.runs.lock import RunLock
from mar_accel.runs.sweep_result import RunResult
from mar_accel.utils import whole_files
from mar_accel.utils.images import image_index, image_name

NUM_IMAGES = 4


@pytest.fixture
def config(tiny_model: list[str], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a run of four images in two batches: ``config("seed=1")``."""

    def make(*overrides: str, command: str = "generate") -> Settings:
        arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", "trainer.batch_size=2"]
        return compose_settings(command, [*arguments, f"output_dir={tmp_path / 'run'}", *overrides])

    return make


@pytest.fixture
def evaluation(config: Callable[..., Settings]) -> Callable[..., Settings]:
    """The same as an evaluation without a baseline."""
    fixed = ["reference.augmentations=0", "evaluate.baseline=none", "evaluate.profile=false"]
    return lambda *overrides: config(*fixed, *overrides, command="evaluate")


@pytest.fixture
def run(config: Callable[..., Settings], tmp_path: Path) -> Path:
    """The folder of a finished run."""
    assert generate(config()) is not None
    return tmp_path / "run"


def _images(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "images").iterdir()}


# -- what a power cut leaves ---------------------------------------------------------------------------------


def test_files_are_synced_before_names_and_the_record_comes_last(
    config: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    sync, replace = whole_files._sync, os.replace
    monkeypatch.setattr(whole_files, "_sync", lambda path: (calls.append(("sync", path.name)), sync(path)))

    def note_and_replace(source: Path, target: Path) -> None:
        calls.append(("rename", Path(target).name))
        # Its content was synced just before.
        assert calls[-2] == ("sync", Path(source).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note_and_replace)
    generate(config())
    names = [image_name(index) for index in range(NUM_IMAGES)]
    renames = [name for call, name in calls if call == "rename"]
    assert renames == [".identity.json", "config.yaml", *names, "grid.png", "run.json"]
    record = calls.index(("rename", "run.json"))
    last_image = calls.index(("rename", names[-1]))
    assert ("sync", "images") in calls[last_image:record], "the names of the images, before the record"
    assert ("sync", "run") in calls[record:], "the name of the record"


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "other bits": lambda file: file.write_bytes(_flipped(file.read_bytes())),
    "not an image": lambda file: file.write_text("hello"),
    "another size": lambda file: Image.new("L", (16, 16)).save(file),
    "another mode": lambda file: Image.new("RGB", (32, 32)).save(file),
    "another format": lambda file: Image.new("L", (32, 32)).save(file, format="BMP"),
}


def _flipped(content: bytes) -> bytes:
    """A PNG whose pixel data has one byte changed."""
    position = content.index(b"IDAT") + 20
    return content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_images_are_made_again(
    damage: Callable[[Path], object], run: Path, config: Callable[..., Settings]
) -> None:
    before = _images(run)
    damage(run / "images" / image_name(2))
    (run / "run.json").unlink()
    result = generate(config("generate.resume=true"))
    assert result is not None and result.num_sampled == 2, "the batch of the damaged image"
    assert _images(run) == before and json.loads((run / "run.json").read_text())["num_images"] == NUM_IMAGES


def test_damaged_images_of_an_evaluation_are_made_again(
    evaluation: Callable[..., Settings], tmp_path: Path
) -> None:
    assert evaluate(evaluation()) is not None
    run, before = tmp_path / "run", _images(tmp_path / "run")
    numbers = json.loads((run / "metrics.json").read_text())
    (run / "images" / image_name(3)).write_bytes(b"")
    assert evaluate(evaluation("evaluate.resume=true")) is not None
    again = json.loads((run / "metrics.json").read_text())
    assert _images(run) == before and again["fid"] == pytest.approx(numbers["fid"])


@pytest.mark.parametrize("content", ["", "[]", "null"])
def test_a_record_without_content_is_no_record(
    content: str, run: Path, config: Callable[..., Settings]
) -> None:
    (run / "run.json").write_text(content)
    assert RunResult(0, (), "done", "run.json", str(run)).record is None, "a sweep runs it again"
    assert open_images(run).record == {}
    generate(config("generate.resume=true"))
    assert json.loads((run / "run.json").read_text())["num_images"] == NUM_IMAGES
    assert RunResult(0, (), "done", "run.json", str(run)).record == run / "run.json"


def test_an_image_has_the_name_of_its_index(run: Path) -> None:
    folder = run / "images"
    for name in ("5.png", "0000005.png", "٥.png", "²5.png", "00000٥.png", "-00005.png", "000005.PNG"):
        (folder / name).write_bytes((folder / image_name(0)).read_bytes())
        assert image_index(name) is None
    (folder / image_name(6)).mkdir()
    os.mkfifo(folder / image_name(7))
    assert image_indices(run) == list(range(NUM_IMAGES))
    assert [image_index(name) for name in ("000005.png", "1234567.png")] == [5, 1234567]


# -- one list for all processes ------------------------------------------------------------------------------


class _Strategy:
    """A strategy of two processes, seen from the second one."""

    def __init__(self, said_by_first: Any):
        self.said_by_first = said_by_first

    def broadcast(self, own: Any) -> Any:
        return self.said_by_first

    def reduce_boolean_decision(self, decision: bool) -> bool:
        return decision


class _Trainer:
    def __init__(self, strategy: _Strategy):
        self.strategy = strategy


def test_all_processes_sample_from_the_list_of_the_first() -> None:
    requests = GenerationRequests(DatasetSettings("digits", num_images=9, num_classes=10), batch_size=2)
    mine = requests.only(range(9))
    mine.trainer = _Trainer(_Strategy([4, 5, 8]))  # type: ignore[assignment]
    mine.setup("predict")
    assert [mine.requests[item] for item in range(mine.num_images)] == [(4, 4), (5, 5), (8, 8)]


def test_processes_with_other_configs_do_not_sample() -> None:
    callback = SameConfig("a")
    callback.setup(_Trainer(_Strategy("a")), None, "predict")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the processes of this run read different configs"):
        callback.setup(_Trainer(_Strategy("b")), None, "predict")  # type: ignore[arg-type]


# -- counted before the record -------------------------------------------------------------------------------


@pytest.fixture
def while_sampling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[int]], None]], None]:
    """Does something after each batch was sampled and before it is written."""

    def register(action: Callable[[list[int]], None]) -> None:
        step = InferenceModule.predict_step

        def sample(self: InferenceModule, batch: Any, batch_idx: int) -> Prediction:
            prediction = step(self, batch, batch_idx)
            action(prediction.indices.tolist())
            return prediction

        monkeypatch.setattr(InferenceModule, "predict_step", sample)

    return register


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_images_removed_during_a_run_are_missed(
    command: str,
    config: Callable[..., Settings],
    evaluation: Callable[..., Settings],
    tmp_path: Path,
    while_sampling: Callable[..., None],
) -> None:
    folder = tmp_path / "run"
    while_sampling(lambda indices: 3 in indices and (folder / "images" / image_name(1)).unlink())
    with pytest.raises(IncompleteError, match=r"lacks 1 of 4 images.*: index 1;"):
        generate(config()) if command == "generate" else evaluate(evaluation())
    assert not (folder / "run.json").exists() and not (folder / "metrics.json").exists()


def test_images_that_another_process_adds_are_noticed(
    config: Callable[..., Settings], tmp_path: Path, while_sampling: Callable[..., None]
) -> None:
    images = tmp_path / "run" / "images"
    while_sampling(lambda indices: 3 in indices and (images / image_name(9)).write_bytes(b""))
    with pytest.raises(IncompleteError, match=r"has 5 images, .* but this run makes 4"):
        generate(config())
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_images_of_a_run_are_compared_with_its_record(
    run: Path, evaluation: Callable[..., Settings], run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    (run / "images" / image_name(1)).unlink()
    arguments = [*tiny_model, f"evaluate.images={run}", f"output_dir={tmp_path / 'judged'}"]
    outcome = run_here("evaluate", *arguments, "reference.augmentations=0")
    assert outcome.status == ExitCode.REFUSED and not (tmp_path / "judged").exists()
    assert "has 3 images, but its run.json records the images 0 to 3" in outcome.stderr


# -- one run at a time ---------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(run: Path, config: Callable[..., Settings]) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with RunLock(run) as lock:
        lock.take()
        for overrides in ((), ("generate.resume=true",), ("seed=5",)):
            with pytest.raises(ConfigError, match=r"output_dir=.*run is in use by another run; wait"):
                generate(config(*overrides))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert generate(config()) is not None, "afterwards it is free"


def test_two_runs_that_start_together_do_not_mix(
    config: Callable[..., Settings], tmp_path: Path, while_sampling: Callable[..., None]
) -> None:
    sampling, refused = threading.Event(), threading.Event()

    def wait(indices: list[int]) -> None:
        sampling.set()
        refused.wait()

    while_sampling(wait)
    first = threading.Thread(target=generate, args=(config(),))
    first.start()
    sampling.wait()
    try:
        with pytest.raises(ConfigError, match="in use by another run"):
            generate(config("seed=5"))
    finally:
        refused.set()
        first.join()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 0


def test_default_folders_of_the_same_second_differ(tiny_model: list[str]) -> None:
    folders = {compose_settings("generate", [*tiny_model, f"seed={seed}"]).output_dir for seed in range(3)}
    assert len(folders) == 3


# -- failed starts -------------------------------------------------------------------------------------------


def test_a_run_that_fails_before_its_first_image_keeps_the_record(
    run: Path, config: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, images = (run / "run.json").read_bytes(), _images(run)

    def fail(self: Session, *args: Any) -> Prediction:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(session_module.Session, "sample", fail)
    for overrides in ((), ("dataset.num_images=6",)):
        with pytest.raises(BatchSizeError):
            generate(config(*overrides))
        assert (run / "run.json").read_bytes() == record and _images(run) == images


def test_an_evaluation_that_fails_before_its_first_image_keeps_its_records(
    evaluation: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert evaluate(evaluation()) is not None
    files = [tmp_path / "run" / name for name in ("run.json", "metrics.json")]
    before = [file.read_bytes() for file in files]

    def fail(self: Session, *args: Any) -> Prediction:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Session, "sample", fail)
    for overrides in ((), ("evaluate.resume=true", "dataset.num_images=6")):
        with pytest.raises(BatchSizeError):
            evaluate(evaluation(*overrides))
        assert [file.read_bytes() for file in files] == before


def test_a_logger_that_fails_at_the_end_costs_no_record(
    config: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    assert generate(config("logger=csv")) is not None
    assert "warning: the logger has failed (no space left)" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["num_images"] == NUM_IMAGES


def test_the_record_goes_before_the_first_new_image(
    run: Path, config: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mar_accel.data import run_images

    there = []

    def save(image: Any, path: Path, sync_name: bool = True) -> None:
        there.append((run / "run.json").exists())
        raise OSError("disk full")

    monkeypatch.setattr(run_images, "save_png", save)
    with pytest.raises(OSError, match="disk full"):
        generate(config())
    assert there == [False]


def test_a_callback_can_be_left_out(config: Callable[..., Settings]) -> None:
    settings = config("callbacks=default", "callbacks.progress=null")
    assert build_callbacks(settings) == [] and generate(settings) is not None


BAD_STARTS = {
    "logger that cannot write": ["logger=csv", "logger.save_dir=/proc/x"],
    "wrong logger": ["logger._target_=mar_accel.nothing.Logger"],
    "wrong callback": ["+callbacks.mine._target_=mar_accel.sampling.orders.RandomOrder"],
}


@pytest.mark.parametrize("arguments", BAD_STARTS.values(), ids=BAD_STARTS.keys())
def test_a_failed_start_keeps_the_record(
    arguments: list[str], run: Path, run_here: Any, tiny_model: list[str]
) -> None:
    record, images = (run / "run.json").read_bytes(), _images(run)
    common = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", "trainer.batch_size=2", f"output_dir={run}"]
    # A logger may also raise what the system says.
    with contextlib.suppress(OSError):
        assert run_here("generate", *common, *arguments).status == ExitCode.REFUSED
    assert (run / "run.json").read_bytes() == record and _images(run) == images


# -- not a number --------------------------------------------------------------------------------------------


@pytest.fixture
def broken_sample(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes sample 1 NaN or infinite: ``broken_sample(math.nan)``."""

    def register(value: float) -> None:
        sample = Session.sample

        def broken(self: Session, indices: Any, *args: Any) -> Prediction:
            prediction = sample(self, indices, *args)
            prediction.images[prediction.indices == 1, :, 5, 5] = value
            return prediction

        monkeypatch.setattr(Session, "sample", broken)

    return register


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("command", ["generate", "evaluate"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_sample_that_is_not_finite_is_named_and_the_others_are_kept(
    value: float,
    command: str,
    batch_size: int,
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    broken_sample: Callable[[float], None],
) -> None:
    broken_sample(value)
    arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}", f"trainer.batch_size={batch_size}"]
    if command == "evaluate":
        arguments += ["reference.augmentations=0", "evaluate.baseline=none"]
    outcome = run_here(command, *arguments, "dataset.labels=[4,7]", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == ExitCode.INCOMPLETE == 3
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert "lacks 1 of 4 images" in line and "NaN or infinite: index 1 (label 7);" in line
    assert image_indices(tmp_path / "run") == [0, 2, 3]
    assert not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "run" / "metrics.json").exists()


def test_an_unaccelerated_sample_that_is_not_finite_is_named(
    evaluation: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sample = Session.sample

    def broken(self: Session, indices: Any, *args: Any) -> Prediction:
        prediction = sample(self, indices, *args)
        if len(self.plan.steps) == 5:  # the baseline
            prediction.tokens[prediction.indices == 3] = float("nan")
        return prediction

    monkeypatch.setattr(Session, "sample", broken)
    baseline = ["evaluate.baseline=generate", "evaluate.baseline_sampler.num_iter=5"]
    with pytest.raises(IncompleteError, match=r"=generate lacks 1 of 4 .*index 3 \(label 3\)"):
        evaluate(evaluation(*baseline))
    assert image_indices(tmp_path / "run") == [0, 1, 2, 3]
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_finite_setting_that_overflows_makes_no_black_images(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    arguments = [*tiny_model, "dataset.num_images=2", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("generate", *arguments, "sampler.guidance_scale=1e38")
    assert outcome.status == ExitCode.INCOMPLETE and "index 0 (label 0), index 1 (label 1)" in outcome.stderr
