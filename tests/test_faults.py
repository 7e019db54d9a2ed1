"""What users do wrong, and runs that are stopped: one sentence, nothing half-written, whole images."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mar_accel.config.compose import compose_settings
from mar_accel.data import run_images
from mar_accel.errors import ExitCode
from mar_accel.inference.build import build_architecture
from mar_accel.models.mar import MAR
from mar_accel.runs.record import git_revision
from mar_accel.weights.folder import save_model_folder

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def _refused(outcome: Any, sentence: str, *untouched: Path) -> None:
    """One sentence on stderr, no traceback, a status that scripts notice, and nothing written."""
    assert outcome.status == 2, outcome.stderr
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ") and sentence in line and line.endswith((".", "?"))
    for path in untouched:
        assert not path.exists()


def test_two_run_folders(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = [f"hydra.run.dir={tmp_path / 'one'}", f"output_dir={tmp_path / 'two'}"]
    outcome = run_here("generate", *tiny_model, *arguments)
    _refused(outcome, "hydra.run.dir and output_dir both name", tmp_path / "two")


REFUSED = {
    "config": (["seed=-1"], "seed must be"),
    "later": (["model.weights=/nowhere.pth"], "model.weights=/nowhere.pth does not exist"),
    "unknown member": (["sampler=nothing"], "sampler=nothing is unknown"),
    "overrides on both sides of a flag": (["-m", "seed=0,1", "sampler.num_itre=3"], "sampler.num_itre"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_command_leaves_no_folder(
    arguments: list[str], words: str, run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for folder in ("new/a", "own"):
        outcome = run_here("generate", *tiny_model, f"hydra.run.dir={folder}", *arguments)
        assert outcome.status == 2 and words in outcome.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "own"], "an empty folder of the user stays"


def test_a_refused_sweep_leaves_no_folder(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Hydra's own sweeper has written its config and made the folders of the jobs by then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for folder in ("new/a", "own"):
        outcome = run_here("plan", "-m", *tiny_model, "seed=-1,-2", f"hydra.sweep.dir={folder}")
        assert outcome.status == 2 and "seed must be" in outcome.stderr
    assert [*tmp_path.rglob("*")] == [tmp_path / "own"], "an empty folder of the user stays"


def test_every_refused_job_of_a_numbered_sweep_is_named(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    """Hydra's own sweeper goes on with the other jobs, and raises the first error alone."""
    sweep = ["seed=-1,0,-2", "plan.flops=false", f"hydra.sweep.dir={tmp_path}"]
    outcome = run_here("plan", "-m", *tiny_model, *sweep)
    assert outcome.status == 2 and (tmp_path / "1" / "run.json").is_file()
    said = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        f"error: run {number}: seed must be ≥ 0, got {seed}." for number, seed in ((0, -1), (2, -2))
    ]
    assert not (tmp_path / "0").exists() and not (tmp_path / "2").exists()


def test_a_run_folder_of_hydra_is_used(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "a"
    outcome = run_here("generate", *tiny_model, "dataset.num_images=1", f"hydra.run.dir={folder}")
    assert outcome.status == 0 and (folder / "run.json").is_file()


def test_a_part_of_ones_own_inherits_within_its_group(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    """Its group lies outside the package, and the member that it inherits inherits another one."""
    parts = tmp_path / "conf" / "sampler" / "step_sizes"
    parts.mkdir(parents=True)
    (parts / "mine.yaml").write_text("defaults: [gtr_19, _self_]\nrates: [6, 16, 64]\n")
    model = [item for item in tiny_model if not item.startswith("sampler.num_iter")]
    arguments = [*model, "sampler=gtr", "dataset.num_images=1", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here(
        "generate", "--config-dir", f"{tmp_path / 'conf'}", *arguments, "sampler/step_sizes=mine"
    )
    assert outcome.status == 0, outcome.stderr
    sizes = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["sampler"]["step_sizes"]
    assert (
        sizes["rates"] == [6, 16, 64]
        and sizes["split"] == "uniform"
        and sizes["_target_"].endswith("StageSteps")
    )


QUOTED = ("a=b", "a~b", "a,b", "ä 図", "a(1)", "a[1]{2}", "a'b", "a#b&c;d")


@pytest.mark.parametrize("name", QUOTED)
def test_what_the_message_says_about_quotes_works(
    name: str, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    said = run_here("generate", *tiny_model, f"output_dir={tmp_path / name}").stderr
    (override,) = shlex.split(said.partition("write ")[2].strip().removesuffix("."))
    outcome = run_here("generate", *tiny_model, "dataset.num_images=1", override)
    assert outcome.status == 0 and (tmp_path / name / "run.json").is_file()


FAILING_FOLDERS: dict[str, tuple[int, str]] = {
    "full disk": (errno.ENOSPC, "No space left on device); free some space, then run the same command"),
    "quota": (errno.EDQUOT, "Disk quota exceeded); free some space, then run the same command again."),
    "read-only": (errno.EROFS, "Read-only file system); check that it exists"),
    "no permission": (errno.EACCES, "Permission denied); check that it exists and that you may use it"),
}


@pytest.mark.parametrize(("number", "words"), FAILING_FOLDERS.values(), ids=FAILING_FOLDERS.keys())
def test_folder_that_fails_while_sampling(
    number: int, words: str, run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(image: Any, path: Path, **arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image.Image, "save", fail)
    outcome = run_here("generate", *tiny_model, "dataset.num_images=2", f"output_dir={tmp_path / 'run'}")
    image = tmp_path / "run" / "images" / "000000.png"
    _refused(outcome, f"{image} cannot be read or written ({words}", tmp_path / "run" / "run.json")


def test_folder_that_is_removed_while_sampling(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = run_images.save_png

    def save_after_removal(image: Image.Image, path: Path, **options: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        save(image, path, **options)

    monkeypatch.setattr(run_images, "save_png", save_after_removal)
    outcome = run_here("generate", *tiny_model, "dataset.num_images=2", f"output_dir={tmp_path / 'run'}")
    image = tmp_path / "run" / "images" / "000000.png"
    _refused(outcome, f"{image} cannot be read or written (No such file or directory)", tmp_path / "run")


@pytest.mark.parametrize("content", ["", "a: [1,", "[]", "3", "\0", "model: 3\n", "command: generate\n"])
def test_torn_config_of_a_run(content: str, run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    Image.new("L", (32, 32)).save(folder / "images" / "000000.png")
    (folder / "config.yaml").write_text(content)
    outcome = run_here("generate", *tiny_model, "dataset.num_images=2", f"output_dir={folder}")
    _refused(outcome, "has images but no config.yaml that describes them", folder / "run.json")


def test_weights_entry_is_recorded_and_said(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    model = MAR(build_architecture(compose_settings("generate", tiny_model).model))
    torch.save({"model": model.state_dict(), "ema": model.state_dict()}, tmp_path / "w.pth")
    arguments = [
        f"model.weights={tmp_path / 'w.pth'}",
        "dataset.num_images=1",
        f"output_dir={tmp_path / 'run'}",
    ]
    outcome = run_here("generate", *tiny_model, *arguments)
    assert outcome.status == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights_entry"] == "ema"


def test_revision_of_a_checkout_of_another_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    before = git_revision()
    # Git's own test suite uses this variable.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert git_revision() == before


OWN = """
from mar_accel.sampling.orders import RandomOrder, Order


class RaiseInit(RandomOrder):
    def __init__(self):
        raise ValueError("bad init\\nsecond line")


class Nothing(Order):
    pass


class NoReturn(Order):
    def permutation(self, grid, generator):
        pass
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("RaiseInit", "sampler.order._target_=own_parts.RaiseInit cannot be built: ValueError: bad init ("),
        ("Nothing", "sampler.order._target_=own_parts.Nothing cannot be built: TypeError: "),
        (
            "NoReturn",
            "sampler.order (NoReturn): permutation must return an int64 tensor of shape [256], got None.",
        ),
    ],
)
def test_a_class_of_ones_own_that_fails_is_named(
    name: str,
    sentence: str,
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "run"
    arguments = [f"sampler.order._target_=own_parts.{name}", f"output_dir={folder}"]
    _refused(run_here("generate", *tiny_model, *arguments), sentence, folder)


@needs_no_gpu
def test_gpu_where_there_is_none(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = run_here("generate", *tiny_model, f"output_dir={folder}", "trainer=gpu")
    _refused(outcome, "trainer.accelerator=gpu needs a GPU, but this machine has none", folder)


def test_folder_that_cannot_be_written(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for folder, words in (
        (file, "is a file, or inside one"),
        (file / "below", "is a file, or inside one"),
        (Path("/proc/nothing/here"), "cannot be written"),
    ):
        outcome = run_here("generate", *tiny_model, f"output_dir={folder}")
        _refused(outcome, f"output_dir={folder} {words}")
    assert file.read_text() == "not a folder" and list(tmp_path.iterdir()) == [file]


@pytest.fixture
def weights(tiny_model: list[str], tmp_path: Path) -> Path:
    """A folder with the weights of the tiny model."""
    config = compose_settings("generate", tiny_model)
    model = MAR(build_architecture(config.model))
    return save_model_folder(tmp_path / "weights", model, name="digits", sampling={"guidance_scale": 2.0})


def test_weights_of_a_folder_are_sampled(
    run_here: Any, tiny_model: list[str], weights: Path, tmp_path: Path
) -> None:
    arguments = [f"model.weights={weights}", "dataset.num_images=1", f"output_dir={tmp_path / 'run'}"]
    outcome = run_here("generate", *tiny_model, *arguments)
    assert outcome.status == 0 and outcome.stderr == "", "a command that works says nothing on stderr"
    assert (tmp_path / "run" / "run.json").is_file()


def test_bad_weights_are_one_sentence(
    run_here: Any, tiny_model: list[str], weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    whole = (weights / "model.safetensors").read_bytes()
    truncated, pickled = tmp_path / "truncated.safetensors", tmp_path / "truncated.pth"
    truncated.write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {"a": torch.zeros(1000)}}, pickled)
    pickled.write_bytes(pickled.read_bytes()[:2000])
    cases = {
        tmp_path / "missing.pth": "missing.pth",
        truncated: "truncated.safetensors",
        pickled: "truncated.pth",
    }
    for path, sentence in cases.items():
        outcome = run_here("generate", *tiny_model, f"model.weights={path}", f"output_dir={folder}")
        _refused(outcome, sentence, folder)
    other_size = ["model.architecture.embed_dim=64", f"model.weights={weights / 'model.safetensors'}"]
    outcome = run_here("generate", *tiny_model, *other_size, f"output_dir={folder}")
    _refused(outcome, "model.safetensors", folder)
    assert "[" in outcome.stderr, "the differing shapes are named"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_one_sentence(
    value: float, run_here: Any, tiny_model: list[str], weights: Path, tmp_path: Path
) -> None:
    file = weights / "model.safetensors"
    state = load_file(file)
    state["diffloss.net.cond_embed.weight"][3, 5] = value
    save_file(state, file)
    folder = tmp_path / "run"
    for path in (weights, file):
        outcome = run_here("generate", *tiny_model, f"model.weights={path}", f"output_dir={folder}")
        _refused(outcome, "diffloss.net.cond_embed.weight has NaN or infinite values", folder)


def test_traceback_is_there_for_those_who_ask(
    run_here: Any, tiny_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="sampler/fast"):
        run_here("generate", *tiny_model, "sampler=fast")


def test_commands_leave_the_process_as_it_was(run_here: Any, tiny_model: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), dict(os.environ)
    run_here("generate", *tiny_model, "sampler=fast")
    assert (signal.getsignal(signal.SIGTERM), dict(os.environ)) == before


def test_failing_job_of_a_multirun_does_not_stop_the_others(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["dataset.labels=[1],[99],[2]", "dataset.num_images=1", f"hydra.sweep.dir={tmp_path}"]
    outcome = run_here("generate", "-m", *tiny_model, *sweep)
    assert (
        outcome.status == 2
        and "error: run 1: dataset.labels must be classes of the model, 0 to 9, got 99." in outcome.stderr
    )
    assert "run 1 failed: dataset.labels must be" in outcome.stdout and "2 done, 1 failed" in outcome.stdout
    labels = [
        json.loads(file.read_text())["config"]["dataset"]["labels"] for file in tmp_path.glob("*/run.json")
    ]
    assert sorted(labels) == [[1], [2]]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_stopped_run_leaves_whole_images_and_can_be_repeated(
    stop: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny_model, "trainer.batch_size=1", f"output_dir={folder}"]
    process = start(tmp_path, "generate", *arguments, "dataset.num_images=5000")
    wait_for((folder / "images" / "000003.png").exists, process)
    process.send_signal(stop)
    _, stderr = process.communicate()
    assert process.returncode == (-stop if stop == signal.SIGKILL else ExitCode.STOPPED)
    assert "Traceback" not in stderr
    names = sorted((folder / "images").glob("*.png"))
    assert 4 <= len(names) < 5000
    for name in names:
        with Image.open(name) as image:
            image.load()
    assert not (folder / "run.json").exists(), "only a finished run has a record"
    kept = np.asarray(Image.open(names[3]))
    assert run_here("generate", *arguments, f"dataset.num_images={len(names)}").status == 0
    assert np.array_equal(np.asarray(Image.open(names[3])), kept)
    assert (folder / "run.json").is_file()
    assert not list((folder / "images").glob(".*"))
