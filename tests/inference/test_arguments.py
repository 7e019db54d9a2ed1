"""Wrong arguments of MARPipeline: each is refused in one sentence that names it, and nothing runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel.errors import MarAccelError
from mar_accel.inference.session import Session
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.models.mar import MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.sampling.sampler import Sampler
from mar_accel.weights.loading import load_mar

NAN, INF = float("nan"), float("inf")
BLACK, ALL = np.zeros((16, 16), np.uint8), np.ones((16, 16), bool)
SIZES = {"embed_dim": 32, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1, "buffer_size": 4}
TINY = MARConfig(
    grid=(8, 8), patch_size=2, latent_channels=1, num_classes=10, head_depth=1, head_width=32, **SIZES
)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, PixelAutoencoder]:
    return load_mar(TINY, "random", "small"), PixelAutoencoder()


@pytest.fixture(scope="module")
def pipe(parts: Any) -> MARPipeline:
    return MARPipeline(*parts, name="small", sampling={"guidance_scale": 2.0})


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "sample", lambda *_, **__: pytest.fail("sampled"))


def _refused(call: Callable[[], object], name: str) -> None:
    with pytest.raises(MarAccelError) as caught:
        call()
    sentence = str(caught.value)
    assert name in sentence and "\n" not in sentence and len(sentence) < 400, sentence
    assert sentence.endswith((".", "?")), sentence


WRONG: dict[str, list[Any]] = {
    "class_labels": [object(), b"3", {3}, range(0), NAN, [[1]], True, "3", 10**30, [None], 10, -1, {3: 1}],
    "sampler": [None, "", [], b"mar", "mar cache=none", "../mar", object(), Sampler, {"_target_": 3}, {}],
    "cache": [None, "", 3.5, "lazymar:x", True, {"_target_": "builtins.print"}, {"_target_": "os.system"}],
    "guidance_scale": ["2", True, INF, NAN, [2.0], torch.ones(2), 1 + 2j, object(), -1],
    "num_iter": [0, -1, 2.5, "4", True, NAN, 10**12, [4], 65],
    "num_diffusion_steps": [0, -3, 1001, 2.5, "5", True, INF, [5]],
    "num_images_per_label": [0, -1, 1.5, "2", None, True, [1]],
    "num_images_per_prompt": [0, -1, 1.5, "2", None, True, [1]],
    "seed": [-1, 1.5, "0", True, NAN, 2**63, [0], torch.ones(2)],
    "generator": ["g", 3, np.random.default_rng(0), [torch.Generator()]],
    "batch_size": [0, -1, 1.5, "2", None, True, NAN],
    "keep_pixels": ["no", None, 3, "false"],
    "output_type": [None, "PIL", 3, "latent", ["pil"], object()],
    "overrides": [
        None,
        3,
        [3],
        "x",
        b"x",
        [None],
        {"sampler.num_iter": 3},
        ["seed=1"],
        ["sampler.num_iter=4\n"],
    ],
    "callback_on_step_end": [3, "f", [], True],
    "observer": [3, "x", [], object(), type],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_of_every_argument(name: str, pipe: MARPipeline) -> None:
    for value in WRONG[name]:
        _refused(lambda: pipe(**{"class_labels": 3, "num_iter": 4, name: value}), name)  # noqa: B023


def test_every_argument_is_tried() -> None:
    arguments = {*inspect.signature(MARPipeline.__call__).parameters} - {"self"}
    assert {*WRONG, "prompt", "image", "mask"} == arguments


PICTURES: dict[str, list[Any]] = {
    "image": [
        *(
            "x.png",
            Path("x.png"),
            3,
            object(),
            [],
            torch.zeros(16, 16).to_sparse(),
            np.zeros((16, 16), complex),
        ),
        *(np.full((16, 16), NAN), np.full((16, 16), 2.0), np.full((16, 16), "a"), np.zeros((16, 16), object)),
        *(np.full((16, 16), 65535, np.uint16), np.zeros((17, 16), np.uint8), np.zeros((0, 16, 16, 1))),
        *(
            [BLACK, BLACK[:8]],
            Image.new("L", (8, 8)),
            torch.zeros(4, 16, 16),
            torch.zeros(16, 16, device="meta"),
        ),
    ],
    "mask": [
        *("x", 3, np.zeros((16, 16)), np.ones((8, 8), bool), np.full((16, 16), NAN), np.full((16, 16), -1)),
        *([], np.full((16, 16), 300), np.zeros((16, 16), complex)),
    ],
}


@pytest.mark.parametrize("name", PICTURES)
def test_wrong_pictures(name: str, pipe: MARPipeline) -> None:
    for value in PICTURES[name]:
        both = {"image": BLACK, "mask": ALL, name: value}
        _refused(lambda: pipe(3, num_iter=4, **both), name)  # noqa: B023


TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "labels twice": ({"class_labels": 3, "prompt": 3}, "class_labels and prompt name the same argument"),
    "no labels": ({}, "class_labels must be a label or a list of labels, got None."),
    "prompt of a model of labels": ({"prompt": "a seven"}, "prompt must be a label or a list of labels"),
    "image alone": ({"class_labels": 3, "image": BLACK}, "image and mask belong together"),
    "mask alone": ({"class_labels": 3, "mask": ALL}, "image and mask belong together"),
    "two seeds": ({"class_labels": 3, "seed": 1, "generator": torch.Generator()}, "seed and generator"),
    "too many": (
        {"class_labels": 3, "num_images_per_label": 10**12},
        "a call for 1000000000000 images needs",
    ),
    "too many of both": (
        {"class_labels": [3] * 10, "num_images_per_label": 10**6, "num_images_per_prompt": 10**6},
        "a call for 10000000000000 images needs at least",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), TOGETHER.values(), ids=TOGETHER.keys())
def test_arguments_that_do_not_fit_together(arguments: dict[str, Any], words: str, pipe: MARPipeline) -> None:
    _refused(lambda: pipe(**arguments), words)


CONSTRUCTED: dict[str, list[dict[str, Any]]] = {
    "model": [{"model": value} for value in (None, 3, b"x", [], object(), torch.nn.Linear(1, 1))],
    "autoencoder": [{"autoencoder": value} for value in (None, 3, "digits", torch.nn.Linear(1, 1))],
    "name": [{"name": value} for value in (3, "", None, "a/b", "a b")],
    "sampling": [{"sampling": value} for value in (3, [1], "x", {3: 1})],
    "text_encoder": [{"text_encoder": value} for value in (3, "t5")],
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_constructor(name: str, parts: Any) -> None:
    for wrong in CONSTRUCTED[name]:
        both = {"model": parts[0], "autoencoder": parts[1], **wrong}
        _refused(lambda: MARPipeline(**both), name)  # noqa: B023


def test_a_name_brings_all_other_arguments(parts: Any) -> None:
    for more in ({"autoencoder": parts[1]}, {"name": "x"}, {"sampling": {}}):
        _refused(lambda: MARPipeline("digits", **more), "model=digits is a name")  # noqa: B023


def test_default_guidance_of_a_model(parts: Any) -> None:
    for value in ("x", NAN, -1):
        pipe = MARPipeline(*parts, sampling={"guidance_scale": value})
        _refused(lambda: pipe(3), "sampler.guidance_scale must be")  # noqa: B023


LOADED: list[tuple[dict[str, Any], str]] = [
    *(({"weights": value}, "weights") for value in (None, 3, "", " ", b"x", [], "nope", "/nope", "a/b/c")),
    *(({"weights": value}, "weights") for value in (Path("/dev/null"), "/dev/zero", "../x")),
    ({"weights": "random"}, "does not say which model it belongs to"),
    *(
        ({"model": value}, "model")
        for value in (3, "nope", [], "", object(), "digits,mar_base", "../digits", True)
    ),
    *(({"autoencoder": value}, "autoencoder") for value in (3, [], "", "nope", "random", Path("/dev/null"))),
    *(({"weights": "digits", "autoencoder": value}, "autoencoder") for value in (3, "nope")),
    *(({"ema": value}, "ema must be True or False") for value in ("no", None, 3)),
]


def test_from_pretrained() -> None:
    for wrong, words in LOADED:
        known = {} if "weights" in wrong else {"weights": "random", "model": "digits"}
        _refused(lambda: MARPipeline.from_pretrained(**{**known, **wrong}), words)  # noqa: B023


def test_other_doors(pipe: MARPipeline, parts: Any) -> None:
    for place in ("foo", "cuda:99", torch.int8, torch.complex64, object()):
        _refused(lambda: pipe.to(place), "")  # noqa: B023
    assert pipe.dtype == torch.float32 and pipe.device.type == "cpu"
    for path in (3, "", None, "/dev/null", "/proc/nothing"):
        _refused(lambda: pipe.save_pretrained(path), "")  # noqa: B023
    for settings in ({"colour": 1}, {"refresh_per_second": "x"}, {"refresh_per_second": 0}):
        _refused(lambda: pipe.set_progress_bar_config(**settings), "the progress bar")  # noqa: B023
    _refused(lambda: pipe.set_progress_bar_config(disable="x"), "disable must be True or False")
    _refused(MARPipeline(*parts).summary, "summary() describes the last call")
