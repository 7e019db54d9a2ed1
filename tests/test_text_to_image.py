"""Text to image as users meet it: prompts from a list or a file, the pipeline, and wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.config.members import member_names
from mar_accel.config.settings import Settings
from mar_accel.data.scene_prompts import evaluation_captions, evaluation_scene, random_captions
from mar_accel.data.scenes import CATEGORIES
from mar_accel.errors import ConfigError, DataError
from mar_accel.inference.session import Session
from mar_accel.pipeline import MARPipeline
from mar_accel.runs.generation import generate
from mar_accel.runs.identity import Identity
from mar_accel.utils.captions import MAX_LINES, wrapped
from mar_accel.utils.images import to_pil

TINY = [
    "model=scenes",
    "model.weights=random",
    "model.architecture.embed_dim=32",
    "model.architecture.num_heads=2",
    "model.architecture.encoder_depth=1",
    "model.architecture.decoder_depth=1",
    "model.architecture.cross_depth=1",
    "model.architecture.text_depth=1",
    "model.architecture.head_depth=1",
    "model.architecture.head_width=32",
    "model.text_encoder.depth=1",
    "sampler.num_iter=4",
    "sampler.num_diffusion_steps=4",
    "callbacks=none",
    "logger=none",
]


def _settings(*overrides: str) -> Settings:
    return compose_settings("generate", [*TINY, "dataset=prompts", *overrides])


def _generate(folder: Path, *overrides: str) -> dict[str, Any]:
    """Run generate; returns its record."""
    generate(_settings(*overrides, f"output_dir={folder}"))
    return json.loads((folder / "run.json").read_text())


def _images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "images").iterdir())]


def test_lists_and_files_of_prompts_give_the_same_images(tmp_path: Path) -> None:
    prompts = ["a red three", "two blue sevens"]
    files = {
        "prompts.txt": "\n".join(prompts) + "\n\n",
        "prompts.csv": "number,prompt\n" + "".join(f"{i},{p}\n" for i, p in enumerate(prompts)),
        "prompts.tsv": "prompt\tnumber\n" + "".join(f"{p}\t{i}\n" for i, p in enumerate(prompts)),
        "prompts.jsonl": "".join(json.dumps({"prompt": prompt, "tag": "x"}) + "\n" for prompt in prompts),
    }
    record = _generate(
        tmp_path / "list", f"dataset.prompts=[{','.join(prompts)}]", "dataset.num_images_per_prompt=2"
    )
    assert record["num_images"] == 4 and record["config"]["dataset"]["prompts"] == prompts
    expected = _images(tmp_path / "list")
    assert len(set(expected)) == 4
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        settings = _settings(f"dataset.path={tmp_path / name}", "dataset.num_images_per_prompt=2")
        assert settings.dataset.prompts == prompts and settings.dataset.num_images == 4
        folder = tmp_path / name.replace(".", "_")
        generate(settings.with_(output_dir=str(folder)))
        assert _images(folder) == expected


PROMPTS = "dataset.prompts=[a six,two red sevens,a red three to the left of a blue seven]"
# One level of an 8-bit image: what rounding may change where a batch's sums are taken in another order.
ONE_LEVEL = 1


def _pixels(folder: Path) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(path)).astype(int) for path in sorted((folder / "images").iterdir())]
    )


@pytest.mark.parametrize("method", [["cache=none"], ["sampler=gtr_lightgen", "cache=lazymar_text"]], ids=str)
def test_batch_size_does_not_matter(method: list[str], tmp_path: Path) -> None:
    for size in (1, 2, 5):
        _generate(
            tmp_path / str(size), PROMPTS, *method, "dataset.num_images=7", f"trainer.batch_size={size}"
        )
    one, *others = (_pixels(tmp_path / str(size)) for size in (1, 2, 5))
    assert all(np.abs(other - one).max() <= ONE_LEVEL for other in others)
    # The test would see a difference: images differ from each other.
    assert np.abs(one[0] - one[3]).max() > 50


def test_order_does_not_matter() -> None:
    session = Session.from_settings(_settings(PROMPTS))
    straight = session.sample([0, 1, 2, 3, 4], torch.tensor([0, 1, 2, 0, 1]))
    mixed = session.sample([4, 1, 3], torch.tensor([1, 1, 0]))
    for place, index in enumerate([4, 1, 3]):
        images = mixed.images[place], straight.images[index]
        one, other = (np.asarray(to_pil(image)).astype(int) for image in images)
        assert np.abs(one - other).max() <= ONE_LEVEL


# As the test of this name for class models, whose data and processes are the same code.
@pytest.mark.long
def test_number_of_processes_does_not_matter(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    _generate(tmp_path / "one", PROMPTS, "dataset.num_images=7")
    arguments = [*TINY, "dataset=prompts", PROMPTS, "dataset.num_images=7"]
    process = start(
        tmp_path, "generate", *arguments, "trainer=ddp_cpu", "trainer.batch_size=2", "output_dir=two"
    )
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert np.abs(_pixels(tmp_path / "two") - _pixels(tmp_path / "one")).max() <= ONE_LEVEL
    assert json.loads((tmp_path / "two" / "run.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize(
    "prompt", ["../a/red/three", "a red\nthree", "a red three " * 1000, "", "   ", "./", "three.txt", "~"]
)
def test_a_prompt_is_never_a_path(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "three.txt").write_text("a red six")
    settings = _settings("output_dir=out", "dataset.prompts=[a]")
    settings = settings.with_(dataset={"prompts": [prompt]})
    words = {"../a/red/three", "./", "three.txt", "~"}
    if prompt in words:
        with pytest.raises(DataError, match="which the model does not know; the nearest word"):
            generate(settings)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["three.txt"]
        return
    generate(settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "three.txt"]
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == ["000000.png"]
    notes = capsys.readouterr().err
    assert ("is empty, so its images are unconditional" in notes) == (not prompt.strip())
    assert ("has more than 23 words; cut off:" in notes) == (len(prompt) > 1000)


def test_an_empty_prompt_is_the_unconditional_image() -> None:
    pipe = _pipe()
    with pytest.warns(UserWarning, match=r"^prompt\[0\] is empty, so its images are unconditional\.$"):
        guided = pipe(["", "a red six"], guidance_scale=3.0, num_iter=4, num_diffusion_steps=4).tokens
    with pytest.warns(UserWarning):
        plain = pipe(["", "a red six"], guidance_scale=1.0, num_iter=4, num_diffusion_steps=4).tokens
    # Both branches are the same, so guidance has no effect.
    torch.testing.assert_close(guided[0], plain[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(guided[1], plain[1], atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "dataset.prompts is not set; give a list of prompts, or a file of prompts in dataset.path."),
        (["dataset.prompts=[]"], "dataset.prompts is empty; give at least one prompt."),
        (["dataset.prompts=[6]"], "dataset.prompts[0] must be text, got 6."),
        (["dataset.path=no.txt"], "dataset.path=no.txt is not a file; use a .txt, .csv or .jsonl file of"),
        (["dataset.prompts=[a]", "dataset.path=x"], "dataset.prompts and dataset.path both name prompts;"),
        (["dataset.prompts=[a]", "dataset.num_images_per_prompt=0"], "dataset.num_images_per_prompt must be"),
        (["dataset=digits"], "dataset=digits has classes, but model=scenes takes text; choose a data set of"),
        (["model=digits"], "dataset=prompts has prompts, but model=digits takes labels; choose a data set"),
    ],
)
def test_wrong_input_is_one_sentence(overrides: list[str], sentence: str) -> None:
    start = TINY if not overrides or overrides[0] != "model=digits" else []
    with pytest.raises(ConfigError) as error:
        compose_settings("generate", [*start, "dataset=prompts", *overrides])
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.csv", b"a,b\n1,2\n", "it has no column prompt (dataset.prompt_column)"),
        ("p.csv", b"a,prompt\n1\n", "row 1 has no prompt"),
        (
            "p.csv",
            b"prompt\na six, on stripes\n",
            "row 1 has more cells than the header; commas in a prompt need",
        ),
        ("p.csv", b"prompt,prompt\na six,a two\n", "it has more than one column prompt"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "line 2 has no text prompt"),
        ("p.jsonl", b"no json\n", "line 1 is not JSON"),
        ("p.yaml", b"- a six\n", "files of the kind .yaml are not read; known are .txt, .csv, .tsv"),
        ("p.txt", b"\xff\xfe\x00", "codec can't decode"),
        ("p.txt", b"\n\n", "has no prompts"),
    ],
)
def test_files_that_have_no_prompts(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        _settings(f"dataset.path={tmp_path / name}")
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_an_evaluation_takes_every_prompt_once() -> None:
    overrides = ["model=scenes", "dataset=prompts", "dataset.prompts=[a six,a two]"]
    assert compose_settings("evaluate", overrides).dataset.num_images == 2
    assert compose_settings("evaluate", ["model=scenes", "dataset=scenes_eval"]).dataset.num_images == 1000


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt\r\na\u2028six\r\n"a two,\nbelow"\r\n', newline="")
    (tmp_path / "p.txt").write_text("a\fsix\r\na two\n", newline="")
    assert _settings(f"dataset.path={tmp_path / 'p.csv'}").dataset.prompts == ["a\u2028six", "a two,\nbelow"]
    assert _settings(f"dataset.path={tmp_path / 'p.txt'}").dataset.prompts == ["a\fsix", "a two"]


def test_unknown_words_name_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        _generate(tmp_path / "out", "dataset.prompts=[a six,a red sevn]")
    assert str(error.value) == (
        'dataset.prompts[1]: "a red sevn" has the word "sevn", which the model does not know; the nearest '
        "word that it knows is seven."
    )
    assert not (tmp_path / "out").exists()


def test_prompts_count_and_the_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a six\n")
    listed = Identity.of(_settings("dataset.prompts=[a six]"))
    assert Identity.of(_settings(f"dataset.path={tmp_path / 'a.txt'}")).images == listed.images
    assert Identity.of(_settings("dataset.prompts=[a six]", "dataset.num_images=7")).images == listed.images
    assert Identity.of(_settings("dataset.prompts=[a two]")).images != listed.images
    scenes = [Identity.of(_settings("dataset=scenes", f"dataset.num_images={n}")).images for n in (4, 9)]
    assert scenes[0] == scenes[1]


def test_captions_of_scenes_do_not_depend_on_their_number() -> None:
    assert random_captions(3) == random_captions(8)[:3] and len(set(random_captions(30))) > 25
    assert evaluation_captions(2) == evaluation_captions(9)[:2]
    assert [evaluation_scene(n)[0].category for n in range(12)] == [*CATEGORIES, *CATEGORIES]
    settings = _settings("dataset=scenes_eval", "dataset.num_images=22").dataset
    assert settings.prompts == evaluation_captions(6) and settings.images_per_label == 4


def _pipe() -> MARPipeline:
    pipe = MARPipeline("scenes")
    assert repr(pipe).startswith("MARPipeline(scenes, cpu, float32")
    return pipe


def test_the_pipeline_takes_prompts(tmp_path: Path) -> None:
    pipe = _pipe()
    # So few diffusion steps under stronger guidance enlarge the rounding.
    few: dict[str, Any] = {"num_iter": 4, "num_diffusion_steps": 4, "guidance_scale": 3.0}
    one = pipe("two red sevens", **few)
    assert one.images[0].size == (64, 64)
    several = pipe(prompt=["two red sevens", "a six"], num_images_per_prompt=2, **few)
    assert len(several.images) == 4
    # Another batch size may change the order of sums, so a pixel may differ by one step.
    difference = np.asarray(several.images[0], int) - np.asarray(one.images[0], int)
    assert abs(difference).max() <= 1
    for wrong in (3, [3], [], None):
        with pytest.raises(ConfigError, match="prompt"):
            pipe(wrong, **few)  # type: ignore[arg-type]
    again = MARPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "model"))
    assert again("two red sevens", **few).images[0].tobytes() == one.images[0].tobytes()
    assert "AR steps: 4" in str(pipe.summary())


@pytest.mark.parametrize("weights", ["scenes", "random"])
def test_a_missing_package_is_one_sentence(
    weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    overrides = ["model=scenes", f"model.weights={weights}", "dataset=prompts", "dataset.prompts=[a six]"]
    with pytest.raises(ConfigError, match=r"needs transformers; run pip install -e '\.\[text\]'"):
        generate(compose_settings("generate", [*overrides, f"output_dir={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()


def test_other_grids_interpolate_positions(tmp_path: Path) -> None:
    overrides = [
        "model.architecture.grid=[8,24]",
        "dataset.prompts=[a six]",
        f"output_dir={tmp_path / 'out'}",
    ]
    few = [override for override in TINY if not override.startswith("model.")]
    generate(compose_settings("generate", ["model=scenes", "dataset=prompts", *few, *overrides]))
    assert Image.open(tmp_path / "out" / "images" / "000000.png").size == (96, 32)


@pytest.mark.parametrize(
    ("size", "grid"),
    [("768", [48, 48]), ("[256,512]", [16, 32]), ("500", None), ("[512]", None), ("7", None)],
)
def test_image_sizes_become_grids(size: str, grid: list[int] | None) -> None:
    overrides = ["model=lightgen_base", "dataset=prompts", "dataset.prompts=[a]", f"model.image_size={size}"]
    if grid is not None:
        assert compose_settings("generate", overrides).model.architecture["grid"] == grid
        return
    with pytest.raises(ConfigError, match=r"^model\.image_size must (have multiples of 16|be a number of)"):
        compose_settings("generate", overrides)


def test_every_model_has_the_stride_of_its_autoencoder() -> None:
    for name in member_names("model"):
        sizes = {"digits": 32, "scenes": 64}
        size = sizes.get(name, 512 if name.endswith("_512") or name.startswith("lightgen") else 256)
        overrides = [
            f"model={name}",
            *(["dataset=prompts", "dataset.prompts=[a]"] if size == 64 or "light" in name else []),
        ]
        plain = compose_settings("generate", overrides).model.architecture["grid"]
        sized = compose_settings("generate", [*overrides, f"++model.image_size={size}"])
        assert sized.model.architecture["grid"] == plain, name


def test_an_unknown_stride_is_no_stride_of_one() -> None:
    overrides = [
        "model.autoencoder._target_=mar_accel.models.autoencoders.Autoencoder",
        "++model.image_size=32",
    ]
    with pytest.raises(ConfigError, match=r"^model\.autoencoder\._target_=.* has no attribute stride"):
        compose_settings("generate", overrides)


def test_captions_in_grids_are_wrapped_and_cut() -> None:
    assert wrapped("a six", 200) == ["a six"]
    assert wrapped("", 200) == [""]
    lines = wrapped("a red three to the left of a blue seven on a green striped background", 200)
    assert len(lines) > 1 and " ".join(lines).endswith("striped background")
    for text in ("word " * 5000, "x" * 10_000, "三" * 10_000):
        lines = wrapped(text, 200)
        assert len(lines) <= MAX_LINES and lines[-1].endswith("…")
