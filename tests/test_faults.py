"""What users do wrong, and runs that are stopped: one sentence, nothing half-written, whole images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_architecture
from mar_accel.models.mar import MAR
from mar_accel.weights.folder import save_model_folder

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

BAD_INPUT = {
    "label outside the classes": (["dataset.labels=[3,10]"], "dataset.labels must be classes of the model"),
    "no labels": (["dataset.labels=[]"], "dataset.labels is empty"),
    "word for a label": (["dataset.labels=[3,seven]"], "dataset.labels[1] must be an integer, got 'seven'."),
    "more AR steps than tokens": (["sampler.num_iter=257"], "sampler.num_iter must be between 1 and 256"),
    "negative guidance": (["sampler.guidance_scale=-0.5"], "(1 disables guidance), got -0.5."),
    "infinite guidance": (["sampler.guidance_scale=inf"], "sampler.guidance_scale must be finite"),
    "unknown member": (["sampler=fast"], "sampler=fast is unknown; choose one of "),
    "unknown part": (["sampler/order=spiral"], "sampler/order=spiral is unknown; choose one of "),
    "unknown part by name": (["sampler.order=spiral"], "sampler/order=spiral is unknown; choose one of "),
    "unknown model": (["model=mar_tiny"], "model=mar_tiny is unknown; choose one of digits, "),
    "unknown group": (["smapler=mar"], "smapler is not a key of the config; did you mean sampler?"),
    "unknown key": (["dataset.num_image=4"], "did you mean dataset.num_images?"),
    "unknown argument": (
        ["+sampler.speed=9"],
        "sampler.speed is not a key of the config; sampler takes order",
    ),
    "unknown key of the dataset": (["+dataset.nonsense=3"], "dataset.nonsense is not a key of the config"),
    "unknown key of the trainer": (["+trainer.num_node=2"], "did you mean trainer.num_nodes?"),
    "key of a training": (["+trainer.max_epochs=2"], "trainer.max_epochs only applies to training"),
    "key of another command": (["+evaluate.lpips=true"], "evaluate belongs to mar_accel.evaluate"),
    "unknown key of the command": (["+generate.foo=1"], "generate.foo is not a key of the config"),
    "key that is there": (["+seed=1"], "seed is already in the config; write it without the +."),
    "forked processes": (["trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn starts processes"),
    "no batches": (["trainer.limit_predict_batches=0"], "trainer.limit_predict_batches must be a number of"),
    "neither true nor false": (
        ["generate.resume=flase"],
        "generate.resume must be true or false, got 'flase'.",
    ),
    "unreadable command line": (["dataset.labels=[1,"], "dataset.labels=[1, cannot be read"),
    "word for a number": (["dataset.num_images=abc"], "dataset.num_images must be an integer, got 'abc'."),
    "word for a number in a part": (
        ["sampler.num_iter=many"],
        "sampler.num_iter must be an integer, got 'many'.",
    ),
    "half an image": (["dataset.num_images=1.5"], "dataset.num_images must be an integer, got 1.5."),
    "no images": (["dataset.num_images=0"], "dataset.num_images must be ≥ 1, got 0."),
    "no batch": (["trainer.batch_size=0"], "trainer.batch_size must be ≥ 1, got 0."),
    "negative seed": (["seed=-1"], "seed must be ≥ 0, got -1."),
    "heads that do not divide": (["model.architecture.num_heads=3"], "num_heads=3"),
    "unknown size": (["+model.architecture.widht=3"], "model.architecture.widht is not a key of the config"),
    "folders in a name": (["model.name=../../x"], "model.name must be a plain name without slashes"),
    "no folder": (["output_dir=''"], "output_dir must name a separate folder"),
    "no sampler": (["sampler=null"], "a group needs a member"),
    "unknown key of a part": (
        ["sampler.solver.orde=1", "sampler/solver=ddim"],
        "sampler.solver.orde is not a",
    ),
    "key of training": (["trainer.max_steps=3"], "trainer.max_steps only applies to training; remove it"),
    "unknown group of a key": (["dataste.labels=1"], "did you mean dataset.labels?"),
    "unknown precision": (["trainer.precision=17"], "trainer: Precision 17 is invalid"),
    "unknown class": (["cache._target_=mar_accel.nothing.Here"], "cache._target_=mar_accel.nothing.Here"),
    "unknown module": (
        ["sampler.order._target_=my.Order"],
        "there is no module my; use an importable class.",
    ),
    "no import path": (["sampler.order._target_=Order"], "must be an import path such as my_module.MyClass"),
    "accelerator without its package": (["trainer.accelerator=tpu"], "trainer: Requirement 'torch_xla"),
    "precision without its package": (
        ["trainer.precision=transformer-engine"],
        "not met; install the package, or use",
    ),
    "unknown plugin": (["+trainer.plugins=foo"], "trainer.plugins must be null, got 'foo'."),
    "nodes that nobody starts": (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs a launcher"),
    "part of another kind": (
        ["sampler.order._target_=mar_accel.sampling.solvers.DDPM"],
        "sampler.order must be an Order, got DDPM() (DDPM).",
    ),
    "part of a cache of another kind": (
        ["cache=lazymar", "cache.token._target_=mar_accel.sampling.orders.RasterOrder"],
        "cache.token",
    ),
    "class of another kind": (
        ["cache._target_=mar_accel.sampling.orders.RandomOrder"],
        "must make a CachePolicy",
    ),
}


def _refused(outcome: Any, sentence: str, *untouched: Path) -> None:
    """One sentence on stderr, no traceback, a status that scripts notice, and nothing written."""
    assert outcome.status == 2, outcome.stderr
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ") and sentence in line and line.endswith((".", "?"))
    for path in untouched:
        assert not path.exists()


@pytest.mark.parametrize(("arguments", "sentence"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    _refused(run_here("generate", *tiny_model, f"output_dir={folder}", *arguments), sentence, folder)


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
    for folder in (file, file / "below", Path("/proc/nothing/here")):
        outcome = run_here("generate", *tiny_model, f"output_dir={folder}")
        _refused(outcome, f"output_dir={folder} cannot be written")
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
    assert process.returncode != 0
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
