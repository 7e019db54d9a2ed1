"""Inpainting and outpainting: known tokens come back exactly, with every part of sampler and cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mar_accel import MARPipeline
from mar_accel.analysis.calibration_run import calibrate
from mar_accel.analysis.redundancy_run import measure_redundancy
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, DataError
from mar_accel.evaluation.counting import count_metrics
from mar_accel.evaluation.result import Evaluation
from mar_accel.inference.inpainting import (
    BOXES,
    Inpainting,
    box_mask,
    fitting_masks,
    load_inpainting,
    unknown_tokens,
)
from mar_accel.inference.pipeline_arguments import masks_of
from mar_accel.inference.session import Session
from mar_accel.profiling.benchmark import benchmark
from mar_accel.profiling.flops import count_flops
from mar_accel.profiling.summary import summarise
from mar_accel.runs.generation import generate
from mar_accel.runs.identity import Identity
from mar_accel.sampling.diffusion_steps import StageAwareDiffusionSteps
from mar_accel.sampling.orders import BisectionOrder
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.step_sizes import CosineSteps, StageSteps
from mar_accel.sweeps.cost import counted_tflops

SIDE = 32


def _session(overrides: list[str], masks: torch.Tensor, keep_pixels: bool = True) -> Session:
    session = Session.from_settings(compose_settings("generate", overrides))
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return session.with_inpainting(Inpainting(images, masks, keep_pixels))


def _check(session: Session, count: int = 3) -> None:
    """Known tokens are those of the image, unknown ones are not; pixels outside the mask are given back."""
    indices = list(range(count))
    assert session.inpainting is not None
    prediction = session.sample(indices, torch.tensor([3] * count))
    images = session.inpainting.images_of(indices)
    tokens = session.model.patchify(session.autoencoder.encode(images))
    unknown = unknown_tokens(session.inpainting.masks, indices, session.model.config.grid)
    assert torch.equal(prediction.tokens[~unknown], tokens[~unknown])
    assert (prediction.tokens[unknown] != tokens[unknown]).any(dim=1).all()
    assert prediction.tokens.isfinite().all()
    masks = session.inpainting.masks_of(indices).unsqueeze(1)
    assert torch.equal(prediction.images[~masks], images[~masks])


SAMPLINGS = [
    ["sampler=mar"],
    ["sampler=gtr", "cache=lazymar", "cache.head.period_for=4"],
    ["sampler=gtr", "sampler.order=random", "sampler.selection=random"],
    ["sampler=gtr", "sampler.step_sizes.steps=[20,4,2]"],
    ["sampler=emigm", "cache=token", "cache.token=attended", "cache.refresh.warmup_steps=1"],
    ["sampler=disa", "sampler.diffusion_steps.last_steps=2", "cache=condition", "sampler.num_iter=16"],
    ["sampler=halton", "sampler.solver=ddim", "cache=head", "cache.head=taylor", "cache.head.period_for=4"],
    ["sampler=mar", "cache=lazymar", "cache/refresh=adaptive", "sampler.num_iter=16"],
    ["sampler.step_sizes=exp", "sampler.step_sizes.draw=bernoulli", "sampler/guidance_schedule=interval"],
]


@pytest.mark.parametrize("mask", ["center", "outside"])
@pytest.mark.parametrize("overrides", SAMPLINGS, ids=" ".join)
def test_known_tokens_come_back(overrides: list[str], mask: str, tiny_model: list[str]) -> None:
    _check(_session([*tiny_model, *overrides], box_mask(mask, SIDE, SIDE)[None]))


def test_few_unknown_tokens_in_any_stage(tiny_model: list[str]) -> None:
    """One token in the first, the second or the last stage of GtR, and two masks in one batch."""
    masks = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 5] = masks[2, 0, 2] = True
    masks[3, 0:4, 0:9] = True
    session = _session([*tiny_model, "sampler=gtr"], masks)
    plans = session.plans.of(range(4))
    assert [sum(step.num_tokens for step in plan.steps) for plan in plans] == [1, 1, 1, 10]
    assert {plans[i].steps[0].stage for i in range(3)} == {0, 1, 2}
    _check(session, 4)


def test_everything_masked_is_ordinary_sampling(tiny_model: list[str]) -> None:
    session = _session([*tiny_model, "sampler=gtr"], torch.ones(1, SIDE, SIDE, dtype=torch.bool))
    whole = Session.from_settings(compose_settings("generate", [*tiny_model, "sampler=gtr"]))
    labels = torch.tensor([3, 4])
    torch.testing.assert_close(session.sample([0, 1], labels).tokens, whole.sample([0, 1], labels).tokens)


def test_an_image_does_not_depend_on_its_batch(tiny_model: list[str]) -> None:
    masks = torch.stack([box_mask("left", SIDE, SIDE), box_mask("center", SIDE, SIDE)])
    session = _session([*tiny_model, "sampler=mar"], masks)
    together = session.sample([0, 1, 2], torch.tensor([3, 4, 5])).tokens
    for index in range(3):
        alone = session.sample([index], torch.tensor([3 + index])).tokens[0]
        torch.testing.assert_close(together[index], alone, rtol=1e-2, atol=1e-2)


def test_plan_counts_known_tokens_as_decoded() -> None:
    """Step sizes are those of U tokens; linear guidance counts known tokens too."""
    sampler = Sampler(step_sizes=CosineSteps(4), guidance_scale=3.0)
    plan = sampler.plan((4, 4), unknown=(10,))
    assert [step.num_tokens for step in plan.steps] == [s.num_tokens for s in CosineSteps(4).split([10])]
    assert plan.num_known == 6 and plan.steps[-1].stop == 16
    assert plan.steps[0].guidance_scale == pytest.approx(1 + 2 * plan.steps[0].stop / 16)
    assert len(Sampler(step_sizes=CosineSteps(64)).plan((4, 4), unknown=(10,)).steps) == 10


def test_empty_stages_keep_their_meaning() -> None:
    """Without tokens of the last stage, none has the diffusion steps of reconstruction."""
    sampler = Sampler(BisectionOrder(3), StageSteps(), diffusion_steps=StageAwareDiffusionSteps(50, 30, 20))
    steps = sampler.plan((16, 16), unknown=(9, 30, 0)).steps
    assert {step.stage for step in steps} == {0, 1} and min(s.num_diffusion_steps for s in steps) == 30
    steps = sampler.plan((16, 16), unknown=(0, 0, 40)).steps
    assert {step.stage for step in steps} == {2} and {s.num_diffusion_steps for s in steps} == {20}


def test_known_tokens_save_work(tiny_model: list[str]) -> None:
    session = _session([*tiny_model, "sampler=mar"], box_mask("center", SIDE, SIDE)[None])
    parts = (session.model.config, session.sampler, session.cache)
    assert count_flops(*parts, session.plan).head < 0.3 * count_flops(*parts).head


def test_pixels_of_cut_cells_are_kept_or_not(tiny_model: list[str]) -> None:
    """A mask of one pixel makes a whole token, whose other pixels are the given ones if they are kept."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 0, 0] = True
    for keep in (True, False):
        session = _session([*tiny_model, "sampler=mar"], mask, keep)
        image = session.sample([0], torch.tensor([3])).images[0]
        assert session.inpainting is not None
        same = image == session.inpainting.images[0]
        assert same[0, 2:].all() and bool(same[0, 1, 1]) == keep and not same[0, 0, 0]


def test_generate_inpaints_a_folder(tiny_model: list[str], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for index in range(3):
        pixels = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.png")
    inpaint = ["dataset=inpaint", f"dataset.images={tmp_path / 'in'}", "dataset.mask=right"]
    few = ["dataset.num_images=4", "trainer.batch_size=2", f"output_dir={tmp_path / 'run'}"]
    generate(compose_settings("generate", [*tiny_model, *inpaint, *few]))
    for index in range(4):
        given, made = (
            np.array(Image.open(path))
            for path in (
                tmp_path / "in" / f"{index % 3}.png",
                tmp_path / "run" / "images" / f"00000{index}.png",
            )
        )
        assert (given[:, :16] == made[:, :16]).all() and (given[:, 16:] != made[:, 16:]).mean() > 0.5
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["dataset"]["mask"] == "right"


@pytest.mark.parametrize("name", BOXES)
def test_boxes(name: str) -> None:
    mask = box_mask(name, 8, 8)
    assert mask.float().mean() == {"center": 0.25, "outside": 0.75}.get(name, 0.5)


def test_pipeline_inpaints(tiny_model: list[str]) -> None:
    session = Session.from_settings(compose_settings("generate", tiny_model))
    pipe = MARPipeline(session.model, session.autoencoder, name="digits", sampling=session.defaults)
    image = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 16:] = True
    made = pipe([3, 4], image=image, mask=mask, num_iter=4, num_diffusion_steps=4, output_type="np").images
    expected = np.asarray(image, dtype=np.float32) / 255
    assert np.allclose(made[:, :, :16, 0], expected[None, :, :16], atol=1e-6)
    assert not np.allclose(made[0], made[1])
    again = pipe(
        [3, 4],
        image=torch.from_numpy(expected)[None],
        mask=Image.fromarray(mask),
        num_iter=4,
        num_diffusion_steps=4,
        output_type="np",
    ).images
    assert np.array_equal(made, again)


@pytest.mark.parametrize(
    "make", [np.array, torch.tensor, Image.fromarray, lambda m: m.astype(np.uint8) * 255]
)
def test_masks_of_any_kind_are_equal(make: Callable[[np.ndarray], Any], tiny_model: list[str]) -> None:
    """Boolean, 0 and 1, 0..255, 0.0..1.0, with one or three channels, one or several."""
    mask = box_mask("left", SIDE, SIDE).numpy()
    expected = torch.from_numpy(mask)[None]
    values = [make(mask), [make(mask)], mask.astype(int), mask.astype(float), np.stack([mask] * 3, -1)]
    for value in values:
        assert torch.equal(fitting_masks("mask", masks_of("mask", value) * 255, (SIDE, SIDE)), expected)
    grey = mask * 0.6 + 0.2
    assert torch.equal(fitting_masks("mask", masks_of("mask", grey) * 255, (SIDE, SIDE)), expected)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((32, 32)), None, "image and mask belong together"),
        (None, np.ones((32, 32)), "image and mask belong together"),
        (
            np.zeros((16, 16)),
            np.ones((32, 32)),
            "image must have the model's size of 32x32 pixels, got 16x16",
        ),
        (np.zeros((32, 32)), np.ones((32, 16)), "mask must have the model's size"),
        (np.zeros((32, 32)), np.zeros((32, 32)), "mask must mark at least one pixel"),
        (np.full((32, 32), 2.0), np.ones((32, 32)), "image must be integers in 0..255 or numbers in 0..1"),
        ("cat.png", np.ones((32, 32)), "image must be an image, an array or a tensor"),
        (Image.new("I;16", (32, 32)), np.ones((32, 32)), "image must have 8 bits per channel, got .* I;16"),
        (np.zeros((32, 32)), torch.rand(3, 32, 32), "mask must be black and white, got channels that differ"),
        (np.zeros((32, 32), object), np.ones((32, 32)), "image must be .* got an array of object"),
        (np.zeros((32, 32), complex), np.ones((32, 32)), "image must have real numbers"),
        ([], np.ones((32, 32)), "image must be pictures of one size, got none"),
        (np.zeros((32, 32, 2)), np.ones((32, 32)), "image must be one image with 1 or 3 channels"),
        (
            np.zeros((32, 32)),
            Image.new("RGBA", (32, 32), (255, 255, 255, 9)),
            "mask is transparent in places",
        ),
        (np.zeros((32, 32)), [Image.new("LA", (32, 32), (255, 0))], "mask is transparent in places"),
        (np.zeros((32, 32)), np.zeros((0, 0)), r"mask must be one image with .* got the shape \[1, 0, 0\]"),
    ],
)
def test_wrong_arguments(image: object, mask: object, message: str, tiny_model: list[str]) -> None:
    session = Session.from_settings(compose_settings("generate", tiny_model))
    pipe = MARPipeline(session.model, session.autoencoder, name="digits", sampling=session.defaults)
    with pytest.raises(ConfigError, match=message):
        pipe([3], image=image, mask=mask)


def test_wrong_settings(tmp_path: Path) -> None:
    inpaint = ["dataset=inpaint", f"dataset.images={tmp_path}"]
    with pytest.raises(DataError, match=r"dataset\.images=.* has no images"):
        load_inpainting(compose_settings("generate", inpaint).dataset, (1, 32, 32))
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    for mask, message in (
        ("middle", "dataset.mask=middle is not an image file"),
        ("null", "mask is not set"),
        (str(tmp_path / "a.png"), r"dataset\.mask must mark at least one pixel .*; draw in white"),
    ):
        dataset = compose_settings("generate", [*inpaint, f"dataset.mask={mask}"]).dataset
        with pytest.raises((DataError, ConfigError), match=message):
            load_inpainting(dataset, (1, 32, 32))
    for overrides in (["dataset.mask=center"], ["dataset.mask=null", "dataset.keep_pixels=false"]):
        with pytest.raises(ConfigError, match=r"dataset\.images is not set, and dataset\.(mask|keep_pixels)"):
            compose_settings("generate", ["dataset=inpaint", "dataset.images=null", *overrides])
    alpha = Image.fromarray(np.pad(np.zeros((16, 16), np.uint8), 8, constant_values=255))
    white = Image.new("L", (32, 32), 255)
    (tmp_path / "masks").mkdir()
    Image.merge("LA", (white, alpha)).save(tmp_path / "masks" / "seen.png")
    dataset = compose_settings("generate", [*inpaint, f"dataset.mask={tmp_path / 'masks'}"]).dataset
    with pytest.raises(DataError, match=r"seen\.png is transparent in places"):
        load_inpainting(dataset, (1, 32, 32))


def test_a_run_may_write_below_its_images(tiny_model: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """As from within the folder of the pictures, with the default folder of runs."""
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    arguments = [*tiny_model, "dataset=inpaint", "dataset.num_images=1"]

    def identity(images: str) -> Identity:
        return Identity.of(compose_settings("generate", [*arguments, f"dataset.images={images}"]))

    before = identity(".")
    generate(compose_settings("generate", [*arguments, "dataset.images=.", "output_dir=outputs/run"]))
    assert identity(".").images_hash == before.images_hash
    assert identity(str(tmp_path)).images_hash == before.images_hash, "the content counts, not the path"
    dataset = compose_settings("generate", [*arguments, "dataset.images=."]).dataset
    loaded = load_inpainting(dataset, (1, SIDE, SIDE))
    assert loaded is not None and len(loaded.images) == 1


def test_only_the_pictures_that_are_needed_are_read(tmp_path: Path) -> None:
    for index in range(5):
        Image.new("L", (SIDE, SIDE), 50 * index).save(tmp_path / f"{index}.png")
    overrides = ["dataset=inpaint", f"dataset.images={tmp_path}", "dataset.num_images=2"]
    loaded = load_inpainting(compose_settings("generate", overrides).dataset, (1, SIDE, SIDE))
    assert loaded is not None and len(loaded.images) == 2


def test_flops_are_the_mean_over_the_masks(tiny_model: list[str]) -> None:
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[1] = True
    counts = []
    for chosen in (masks, masks[:1], masks[1:]):
        evaluation = Evaluation({}, steps=[{"index": 0}])
        count_metrics(evaluation, _session(tiny_model, chosen), 4, per_step=False)
        counts.append(evaluation.metrics["tflops_per_image"])
        assert bool(evaluation.steps) == (len(chosen) == 1)
    both, one, every = counts
    assert one < every and both == pytest.approx((one + every) / 2)


def test_the_unaccelerated_sampler_saves_nothing(tiny_model: list[str]) -> None:
    session = _session(["model=digits", *tiny_model[:-4]], box_mask("center", SIDE, SIDE)[None])
    plain = session.with_sampling(Sampler(guidance_scale=session.sampler.guidance_scale), session.cache)
    assert summarise(plain).flops_ratio == pytest.approx(1)


def _inpaint(folder: Path, tiny: list[str], *masks: tuple[int, int]) -> list[str]:
    """Overrides for an image and masks, each of a rectangle of some rows and columns."""
    (folder / "masks").mkdir(parents=True)
    Image.new("L", (SIDE, SIDE), 100).save(folder / "image.png")
    for number, (rows, columns) in enumerate(masks):
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[:rows, :columns] = 255
        Image.fromarray(pixels).save(folder / "masks" / f"{number}.png")
    given = [f"dataset.images={folder / 'image.png'}", f"dataset.mask={folder / 'masks'}"]
    return [*tiny, "dataset=inpaint", *given, "dataset.num_images=4", "sampler.num_iter=8"]


def test_flops_known_before_a_run_are_those_of_the_run(tiny_model: list[str], tmp_path: Path) -> None:
    settings = compose_settings("evaluate", _inpaint(tmp_path, tiny_model, (4, 4), (SIDE, SIDE)))
    evaluation = Evaluation({})
    count_metrics(evaluation, Session.from_settings(settings), 4, per_step=False)
    assert counted_tflops(settings) == pytest.approx(evaluation.metrics["tflops_per_image"])
    whole = compose_settings("evaluate", [*tiny_model, "sampler.num_iter=8"])
    assert counted_tflops(settings) != pytest.approx(counted_tflops(whole), rel=1e-3)


@pytest.mark.parametrize("command", ["calibrate", "redundancy"])
def test_masks_of_several_sizes_are_refused_where_one_plan_is_needed(
    command: str, tiny_model: list[str], tmp_path: Path
) -> None:
    overrides = _inpaint(tmp_path, tiny_model, (4, 4), (SIDE, SIDE))
    overrides += ["cache=lazymar"] if command == "calibrate" else []
    run = {"calibrate": calibrate, "redundancy": measure_redundancy}[command]
    with pytest.raises(ConfigError, match=rf"^dataset\.mask leads to 2 different plans, but {command} needs"):
        run(compose_settings(command, [*overrides, f"output_dir={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()


def test_settings_of_other_data_are_sampled_with_their_own(tiny_model: list[str], tmp_path: Path) -> None:
    """As where rows of a table are timed: only the weights are shared."""
    own = compose_settings("evaluate", tiny_model)
    session = Session.from_settings(own)
    inpaint = compose_settings("evaluate", [*_inpaint(tmp_path, tiny_model, (4, 4)), "seed=5"])
    other = session.with_settings(inpaint, own)
    assert other.model is session.model and other.seed == 5 and other.plan.num_known > 0
    again = other.with_settings(own, inpaint)
    assert again.inpainting is None and again.seed == 0 and again.plan.num_known == 0


def test_a_mask_that_a_cache_cannot_work_with_is_named(tiny_model: list[str]) -> None:
    masks = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    masks[1] = False
    masks[1, 0, 0] = True
    listed = ["cache=token", "cache/refresh=listed", "cache.refresh.steps=[0,2]"]
    with pytest.raises(ConfigError, match=r"with mask 1 \(of those from 0\), cache\.refresh\.steps"):
        _session([*tiny_model, *listed], masks)


def test_a_benchmark_needs_the_autoencoder(tiny_model: list[str], tmp_path: Path) -> None:
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "0.png")
    overrides = [*tiny_model, "dataset=inpaint", f"dataset.images={tmp_path}", "benchmark.only=[mar]"]
    overrides.append(f"output_dir={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"benchmark\.autoencoder must be true with dataset\.images"):
        benchmark(compose_settings("benchmark", overrides), overrides)
    assert not (tmp_path / "run").exists()
