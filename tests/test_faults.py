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
from mar_accel.errors import ExitCode
from mar_accel.inference import writer
from mar_accel.inference.build import build_architecture
from mar_accel.models.mar import MAR
from mar_accel.runs.record import git_revision
from mar_accel.weights.folder import save_model_folder

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

BAD_INPUT = {
    "label outside the classes": (["dataset.labels=[3,10]"], "dataset.labels must be classes of the model"),
    "no labels": (["dataset.labels=[]"], "dataset.labels is empty"),
    "word for a label": (["dataset.labels=[3,seven]"], "dataset.labels[1] must be an integer, got 'seven'."),
    "more AR steps than tokens": (["sampler.num_iter=257"], "sampler.num_iter must be between 1 and 256"),
    "negative guidance": (["sampler.guidance_scale=-0.5"], "(1 disables guidance), got -0.5."),
    "infinite guidance": (["sampler.guidance_scale=inf"], "sampler.guidance_scale must be finite"),
    "no number for guidance": (["sampler.guidance_scale=nan"], "sampler.guidance_scale must be finite"),
    "no number for the temperature": (["sampler.temperature=nan"], "sampler.temperature must be finite"),
    "infinite temperature": (["sampler.temperature=inf"], "sampler.temperature must be finite"),
    "negative infinite temperature": (["sampler.temperature=-inf"], "sampler.temperature must be finite"),
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
    "= in a path": (["output_dir=/x/a=b"], """write 'output_dir="/x/a=b"'."""),
    "~ in a path": (["model.weights=/x/a~b"], """write 'model.weights="/x/a~b"'."""),
    "home in a path": (
        ["model.weights=~/a#b"],
        f"""write 'model.weights="{Path.home()}/a#b"'.""",
    ),
    "comma in a path": (["output_dir=/x/a,b"], """for one value write 'output_dir="/x/a,b"'."""),
    "umlaut in a path": (["output_dir=/x/ä"], """write 'output_dir="/x/ä"'."""),
    "brackets in a path": (["output_dir=/x/a(1)"], """write 'output_dir="/x/a(1)"'."""),
    "apostrophe in a path": (["output_dir=/x/a'b"], "two pairs of quotes; write"),
    "no value": (["seed"], "seed cannot be read; write it as seed=VALUE."),
    "member beside another": (["+sampler=gtr"], "choose another one by sampler=MEMBER, without the +."),
    "unknown key in braces": (
        ["sampler={_target_: my.Sampler, foo: 1}"],
        "sampler.foo is not a key of the config; correct it, or add it to a class of your own",
    ),
    "unknown key in braces of a part": (
        ["sampler.order={_target_: my.Order, foo: 1}"],
        "sampler.order.foo is not a key of the config;",
    ),
    "key of another member": (
        ["sampler.order.roll=true"],
        "sampler.order.roll is not a key of the config; see",
    ),
    "folder of configs": (["--config-dir", "/nowhere"], "--config-dir=/nowhere is not a folder; correct"),
    "folder of configs, short": (["-cd=/nowhere"], "-cd=/nowhere is not a folder; correct the path."),
    "path of configs": (["--config-path=/nowhere"], "--config-path=/nowhere is not a folder;"),
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
    "no heads": (["model.architecture.num_heads=0"], "num_heads must be an integer between 1 and"),
    "grid of one side": (["model.architecture.grid=[16]"], "model.architecture.grid must be two sizes"),
    "empty grid": (
        ["model.architecture.grid=[16,0]"],
        "grid must be an integer between 1 and",
    ),
    "no patch": (["model.architecture.patch_size=0"], "patch_size must be an integer between 1 and"),
    "negative depth": (["model.architecture.encoder_depth=-1"], "encoder_depth must be an integer between 0"),
    "no decoder": (["model.architecture.decoder_depth=0"], "decoder_depth must be an integer between 1 and"),
    "no width": (["model.architecture.head_width=0"], "head_width must be an integer between 1 and"),
    "endless depth": (["model.architecture.head_depth=10000000"], "between 0 and 1000, got 10000000."),
    "negative ratio": (["+model.architecture.mlp_ratio=-1"], "mlp_ratio must be a number > 0, got -1"),
    "all dropped": (["+model.architecture.dropout=1.0"], "dropout must be a number ≥ 0 and < 1, got 1.0."),
    "model above the memory": (
        ["model.architecture.embed_dim=300000"],
        "model.architecture has 2.25e+03 billion parameters, which need",
    ),
    "classes that the model lacks": (
        ["dataset.num_classes=100", "dataset.labels=50"],
        "dataset.num_classes must be at most 10, the classes of model=digits, got 100.",
    ),
    "unknown size": (["+model.architecture.widht=3"], "model.architecture.widht is not a key of the config"),
    "folders in a name": (["model.name=../../x"], "model.name must be a plain name without slashes"),
    "no folder": (["output_dir=''"], "output_dir must name a separate folder, got ''"),
    "no sampler": (["sampler=null"], "a group needs a member"),
    "unknown key of a part": (
        ["sampler.solver.orde=1", "sampler/solver=ddim"],
        "sampler.solver.orde is not a",
    ),
    "key of training": (["trainer.max_steps=3"], "trainer.max_steps only applies to training; remove it"),
    "another command": (["command=evaluate"], "command cannot be changed"),
    "the folder above": (["output_dir=.."], "output_dir must name a separate folder, got '..'"),
    "two run folders": (["hydra.run.dir=x", "output_dir=y"], "hydra.run.dir and output_dir both name"),
    "a file as folder": (["output_dir=/dev/null"], "output_dir=/dev/null is a file"),
    "default of no model": (["+model.sampling.nonsense=3"], "model.sampling.nonsense is not a key"),
    "a group of nothing": (["model.sampling=null"], "model.sampling must be a group of settings"),
    "labels for texts": (["model=scenes"], "dataset=digits has classes, but model=scenes takes text"),
    "folder without a path": (["dataset=folder"], "dataset.path has no default; give it a value."),
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


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
def test_search_path_that_is_not_there(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = [f"output_dir={tmp_path / 'run'}", "hydra.searchpath=[file:///nowhere]"]
    outcome = run_here("generate", *tiny_model, *arguments)
    _refused(outcome, "hydra.searchpath has /nowhere, which is not a folder", tmp_path / "run")


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
    save = writer.save_png

    def save_after_removal(image: Image.Image, path: Path, **options: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        save(image, path, **options)

    monkeypatch.setattr(writer, "save_png", save_after_removal)
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
