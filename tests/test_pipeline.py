"""MARPipeline: the same images as generate, any member of the groups, round trips, clear refusals."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.refresh import FixedRefresh
from mar_accel.caching.token import TokenCache
from mar_accel.config import compose as compose_module
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.inference.build import build_sampler
from mar_accel.inference.session import Session
from mar_accel.models.autoencoders import PixelAutoencoder
from mar_accel.models.mar import MARConfig
from mar_accel.pipeline import MARPipeline
from mar_accel.sampling.diffusion_steps import ConstantDiffusionSteps
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.orders import HaltonOrder
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps
from mar_accel.weights.loading import load_mar

FAST = {"num_iter": 4, "num_diffusion_steps": 5}
# With lazy steps, and chains that are long enough for a head cache.
LONGER = {"num_iter": 16, "num_diffusion_steps": 30}


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


@pytest.fixture(scope="module")
def pipe() -> MARPipeline:
    config = MARConfig(
        grid=(8, 8),
        patch_size=2,
        latent_channels=1,
        num_classes=10,
        buffer_size=4,
        embed_dim=32,
        num_heads=2,
        encoder_depth=1,
        decoder_depth=2,
        head_depth=1,
        head_width=32,
    )
    model = load_mar(config, "random", "small")
    return MARPipeline(model, PixelAutoencoder(), name="small", sampling={"guidance_scale": 2.0})


def test_images_do_not_depend_on_the_batch(pipe: MARPipeline) -> None:
    whole, parts = pipe([3, 7, 1], **FAST), pipe([3, 7, 1], batch_size=2, **FAST)
    assert [image.size for image in whole.images] == [(16, 16)] * 3
    assert whole.tokens.shape == (3, 64, 4) and bool(whole.tokens.isfinite().all())
    for one, other in zip(whole.images, parts.images, strict=True):
        assert np.abs(_pixels(one) - _pixels(other)).max() <= 1
    assert torch.equal(pipe(torch.tensor([3, 7, 1]), **FAST).tokens, whole.tokens)
    alone = pipe(3, **FAST)
    assert np.abs(_pixels(alone.images[0]) - _pixels(whole.images[0])).max() <= 1


def test_settings_reach_the_sampler(pipe: MARPipeline) -> None:
    """Each of them changes the tokens, and the default guidance is the model's own."""
    tokens = pipe(3, **FAST).tokens
    assert torch.equal(tokens, pipe(3, guidance_scale=2.0, **FAST).tokens)
    changed = [
        pipe(3, guidance_scale=1.0, **FAST),
        pipe(4, **FAST),
        pipe(3, seed=1, **FAST),
        pipe(3, num_iter=5, num_diffusion_steps=5),
        pipe(3, num_iter=4, num_diffusion_steps=6),
        pipe(3, overrides=["sampler.temperature=0.5"], **FAST),
        pipe(3, overrides=["sampler/guidance_schedule=constant"], **FAST),
    ]
    assert not any(torch.equal(tokens, output.tokens) for output in changed)


def test_an_observer_sees_every_step_and_the_images(pipe: MARPipeline) -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.images: list[torch.Size] = []

        def step_end(self, state: DecodeState, step: ARStep) -> None:
            self.steps.append(step.num_tokens)

        def autoencoder_end(self, images: torch.Tensor) -> None:
            self.images.append(images.shape)

    recorder = Recorder()
    pipe([3, 7], num_iter=3, num_diffusion_steps=2, observer=recorder)
    assert len(recorder.steps) == 3 and sum(recorder.steps) == 64
    assert recorder.images == [(2, 1, 16, 16)]


def test_any_member_by_name(pipe: MARPipeline) -> None:
    """GtR's parts ask the model for its grid; the others for K and T."""
    assert bool(pipe(3, sampler="gtr_19").tokens.isfinite().all())
    assert not torch.equal(pipe(3, sampler="halton", **FAST).tokens, pipe(3, **FAST).tokens)


def test_the_models_head_cache_is_used(pipe: MARPipeline) -> None:
    """A model whose head cache is to compute all of a chain is sampled as without a cache."""
    sampling = {"guidance_scale": 2.0, "head_refresh_below": 1.0}
    everything = MARPipeline(pipe.model, pipe.autoencoder, sampling=sampling)
    settings = {**FAST, "cache": "head", "overrides": ["cache.head.period_for=1"]}
    plain = pipe(5, **FAST).tokens
    assert (everything(5, **settings).tokens - plain).abs().max() <= 1e-5
    assert (pipe(5, **settings).tokens - plain).abs().max() > 1e-5


def test_half_precision(pipe: MARPipeline) -> None:
    expected = pipe(3, **FAST).tokens
    try:
        tokens = pipe.to(torch.bfloat16)(3, **FAST).tokens
        assert pipe.dtype == torch.bfloat16
    finally:
        pipe.to(torch.float32)
    assert tokens.dtype == torch.float32
    assert 0 < float((tokens - expected).norm() / expected.norm()) < 0.1


def test_save_and_load(pipe: MARPipeline, tmp_path: Path) -> None:
    again = MARPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "small"))
    assert (again.name, again.sampling) == ("small", {"guidance_scale": 2.0})
    assert again.model.config == pipe.model.config
    assert torch.equal(again(5, **FAST).tokens, pipe(5, **FAST).tokens)


def test_file_needs_a_model(tmp_path: Path) -> None:
    random = MARPipeline.from_pretrained("random", model="digits")
    path = tmp_path / "digits.safetensors"
    save_file(random.model.state_dict(), path)
    loaded = MARPipeline.from_pretrained(path, model="digits")
    assert (loaded.name, loaded.sampling) == ("digits", random.sampling)
    assert loaded.sampling["guidance_scale"] == 4.0
    torch.testing.assert_close(loaded.model.state_dict(), random.model.state_dict(), rtol=0, atol=0)
    for weights in (path, "random"):
        with pytest.raises(
            WeightsError, match=r'does not say which model it belongs to; name it, as in model="'
        ):
            MARPipeline.from_pretrained(weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_labels": [3, 10]}, r"^class_labels must be classes of the model, 0 to 9, got 10\.$"),
        ({"class_labels": [-1]}, r"class_labels must be classes of the model, 0 to 9, got -1\."),
        ({"class_labels": ["3"]}, r"class_labels must be classes of the model, 0 to 9, got 3\."),
        ({"class_labels": [2.5]}, r"class_labels must be classes of the model, 0 to 9, got 2\.5\."),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": 3, "seed": -1}, r"^seed must be ≥ 0, got -1\.$"),
        ({"class_labels": 3, "batch_size": 0}, r"^batch_size must be ≥ 1, got 0\.$"),
        (
            {"class_labels": 3, "guidance_scale": -2.0},
            r"sampler\.guidance_scale must be .* ≥ 0 .* got -2\.0",
        ),
        ({"class_labels": 3, "num_iter": 65}, r"sampler\.num_iter must be between 1 and 64 .* got 65"),
        ({"class_labels": 3, "sampler": "nope"}, "sampler=nope is unknown; choose one of .*mar"),
        ({"class_labels": 3, "cache": "nope"}, "cache=nope is unknown; choose one of .*none"),
        ({"class_labels": 3, "num_images_per_label": 0}, r"^num_images_per_label must be ≥ 1, got 0\.$"),
        ({"class_labels": 3, "batch_size": "2"}, r"^batch_size must be an integer, got '2'\.$"),
        ({"class_labels": 3, "output_type": "jpg"}, r"^output_type must be pil, np or pt, got 'jpg'\.$"),
        ({"class_labels": 3, "sampler": 5}, r"^sampler must be a name, a node or a Sampler, got 5\.$"),
        (
            {"class_labels": 3, "cache": Sampler()},
            r"^cache must be a name, a node or a CachePolicy, got Sampl",
        ),
        (
            {"class_labels": 3, "cache": {"_target_": "mar_accel.sampling.sampler.Sampler"}},
            r"^cache\._target_=mar_accel\.sampling\.sampler\.Sampler must make a CachePolicy, got a Sampler",
        ),
        (
            {"class_labels": 3, "seed": 1, "generator": torch.Generator()},
            r"^seed and generator are mutually exclusive; set only one of them\.$",
        ),
        (
            {"class_labels": 3, "sampler": Sampler(), "num_iter": 3},
            "^num_iter changes samplers given by name",
        ),
        ({"class_labels": 3, "overrides": ["sampler.num_itre=3"]}, r"sampler\.num_itre is not a key"),
        # What would have no effect is refused.
        ({"class_labels": 3, "overrides": ["seed=4"]}, "overrides may only change sampler and cache"),
        ({"class_labels": 3, "overrides": ["model.sampling.guidance_scale=9"]}, "overrides may only change"),
        (
            {"class_labels": 3, "sampler": Sampler(), "overrides": ["sampler.num_iter=4"]},
            "overrides change parts that are given by name, but sampler is not",
        ),
        ({"class_labels": 3, "overrides": "sampler.num_iter=4"}, "overrides must be a list"),
        ({"class_labels": 3, "guidance_scale": "a,b"}, "guidance_scale must be a finite number, got 'a,b'"),
        ({"class_labels": 3, "guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"class_labels": 3, "cache": "lazymar,none"}, "cache must be the name of one member"),
        ({"class_labels": 3, "cache": {}}, "cache must be a node with a _target_"),
        (
            {"class_labels": 3, "cache": {"_target_": "mar_accel.caching.head.HeadCache", "foo": 1}},
            r"cache\.foo is not a key",
        ),
        ({"class_labels": 3, "cache": {"_target_": "no.Such"}}, "there is no module no"),
        ({"class_labels": {3: 1}}, "class_labels must be a label or a list of labels"),
        ({"class_labels": None}, "class_labels must be a label or a list of labels"),
        ({"class_labels": 3.0}, "class_labels must be a label or a list of labels"),
        ({"class_labels": torch.tensor([True])}, "class_labels must be classes of the model"),
        ({"class_labels": torch.tensor([[1, 2]])}, "class_labels must be classes of the model"),
        ({"class_labels": 3, "generator": [torch.Generator()]}, "generator must be a single torch.Generator"),
        ({"class_labels": 3, "callback_on_step_end": 3}, "callback_on_step_end must be a function"),
        ({"class_labels": 3, "observer": 3}, "observer must be an Observer"),
    ],
)
def test_bad_input_is_one_sentence(pipe: MARPipeline, arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_integers_of_numpy_and_torch_are_integers(pipe: MARPipeline) -> None:
    expected = pipe([3], seed=3, **FAST).tokens
    counts = {"num_iter": np.int64(FAST["num_iter"]), "num_diffusion_steps": torch.tensor(2)}
    assert torch.equal(pipe(3, **counts).tokens, pipe(3, **{**FAST, "num_diffusion_steps": 2}).tokens)
    for label in (np.int64(3), torch.tensor(3), torch.tensor([3]), np.array([3])):
        tokens = pipe(label, seed=np.int64(3), batch_size=np.int64(2), **FAST).tokens
        assert torch.equal(tokens, expected)


def test_settings_of_the_progress_bar_are_checked_at_once(pipe: MARPipeline) -> None:
    with pytest.raises(ConfigError, match="the progress bar has no setting foo"):
        pipe.set_progress_bar_config(foo=1)


def _sampler(**changes: Any) -> Sampler:
    """The sampler of the name "halton" under FAST, made in Python."""
    return Sampler(HaltonOrder(), CosineSteps(4), diffusion_steps=ConstantDiffusionSteps(5), **changes)


def test_a_sampler_is_a_name_a_node_or_an_object(pipe: MARPipeline) -> None:
    by_name = pipe(3, sampler="halton", **FAST).tokens
    assert torch.equal(pipe(3, sampler=_sampler()).tokens, by_name)
    overrides = ["sampler=halton", *(f"sampler.{key}={value}" for key, value in FAST.items())]
    node = {
        **compose_settings("generate", overrides).sampler,
        "guidance_scale": "model",
        "max_timestep": "model",
    }
    assert torch.equal(pipe(3, sampler=node).tokens, by_name)
    # The model's own scale fills in what the object leaves open, and a scale can be given to any of them.
    doubled = pipe(3, sampler="halton", guidance_scale=4.0, **FAST).tokens
    assert not torch.equal(doubled, by_name)
    for same in (_sampler(), node):
        assert torch.equal(pipe(3, sampler=same, guidance_scale=4.0).tokens, doubled)
    assert torch.equal(pipe(3, sampler=_sampler(guidance_scale=4.0)).tokens, doubled)


def test_a_cache_is_a_name_a_node_or_an_object(pipe: MARPipeline) -> None:
    plain, by_name = pipe(3, **LONGER).tokens, pipe(3, cache="lazymar", **LONGER).tokens
    assert torch.equal(pipe(3, cache=NoCache(), **LONGER).tokens, plain)
    made = LazyMAR(FixedRefresh(), TokenCache(), ConditionCache(), HeadCache())
    node = compose_settings("generate", ["cache=lazymar"]).cache
    for same in (made, node):
        assert torch.equal(pipe(3, cache=same, **LONGER).tokens, by_name)
    assert not torch.equal(by_name, plain)
    # It is left as it was, and can be used again.
    assert made.head is not None and made.head.refresh_below == "model"
    assert made.token is not None and made.condition is not None
    assert [*made.token.tensors(), *made.condition.tensors()] == []
    assert torch.equal(pipe(3, cache=made, **LONGER).tokens, by_name)


def test_an_image_that_is_not_finite_is_named(pipe: MARPipeline) -> None:
    with pytest.warns(UserWarning, match=r"image 1 \(label 7\) is NaN or infinite") as warned:
        pipe([3, 7], guidance_scale=1e38, **FAST)
    assert len(warned) == 2


def test_a_generator_gives_the_seed(pipe: MARPipeline) -> None:
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    tokens = pipe(3, generator=generator, **FAST).tokens
    assert torch.equal(tokens, pipe(3, seed=5, **FAST).tokens)
    assert not torch.equal(tokens, pipe(3, **FAST).tokens)
    assert torch.equal(generator.get_state(), state)


def test_several_images_of_each_label(pipe: MARPipeline) -> None:
    tokens = pipe([3, 7], num_images_per_label=2, **FAST).tokens
    assert torch.equal(tokens, pipe([3, 3, 7, 7], **FAST).tokens)
    assert not torch.equal(tokens[0], tokens[1])


def test_output_types(pipe: MARPipeline) -> None:
    pictures = pipe([3, 7], **FAST).images
    array, tensor = (pipe([3, 7], output_type=kind, **FAST).images for kind in ("np", "pt"))
    assert array.shape == (2, 16, 16, 1) and array.dtype == np.float32
    assert tensor.shape == (2, 1, 16, 16) and tensor.dtype == torch.float32
    assert 0 <= array.min() <= array.max() <= 1
    assert np.array_equal(array[..., 0], tensor[:, 0].numpy())
    for picture, values in zip(pictures, array, strict=True):
        assert np.abs(_pixels(picture.convert("L")) - 255 * values[..., 0]).max() <= 0.51


def test_a_callback_is_called_at_every_step_of_every_batch(pipe: MARPipeline) -> None:
    heard: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = []
    last: list[torch.Tensor] = []

    def on_step_end(pipeline: MARPipeline, index: int, step: ARStep, kwargs: dict[str, torch.Tensor]) -> None:
        assert pipeline is pipe and step.index == index
        heard.append((index, step.stop, tuple(kwargs["tokens"].shape), tuple(kwargs["order"].shape)))
        if step.stop == 64:
            last.append(torch.empty(0).new_zeros(kwargs["tokens"].shape))
            last[-1].scatter_(1, kwargs["order"][..., None].expand_as(last[-1]), kwargs["tokens"])

    tokens = pipe([3, 7, 1], batch_size=2, callback_on_step_end=on_step_end, **FAST).tokens
    assert [entry[0] for entry in heard] == [*range(4), *range(4)]
    assert [entry[1] for entry in heard][3] == 64
    assert [entry[2:] for entry in heard] == [((2, 64, 4), (2, 64))] * 4 + [((1, 64, 4), (1, 64))] * 4
    assert torch.equal(torch.cat(last), tokens)


def test_the_progress_bar_can_be_hidden(pipe: MARPipeline) -> None:
    def shown(**settings: Any) -> str:
        screen = io.StringIO()
        pipe.set_progress_bar_config(console=Console(file=screen, force_terminal=True, width=80), **settings)
        try:
            pipe(3, **FAST)
        finally:
            pipe.set_progress_bar_config()
        return screen.getvalue()

    assert "sampling" in shown() and shown(disable=True) == ""


def test_a_summary_tells_of_the_last_call(pipe: MARPipeline) -> None:
    fresh = MARPipeline(pipe.model, pipe.autoencoder, sampling=pipe.sampling)
    with pytest.raises(ConfigError, match=r"^summary\(\) describes the last call; sample images first\.$"):
        fresh.summary()
    fresh(3)
    summary = fresh.summary()
    assert (summary.num_ar_steps, summary.num_refreshes, summary.share_reused) == (64, None, 0)
    assert summary.num_guided_steps == 64 and summary.flops_ratio == pytest.approx(1)
    fresh(3, cache="lazymar", num_iter=16)
    summary = fresh.summary()
    steps = LazyMAR(FixedRefresh())
    expected = steps.num_refreshes(
        pipe.model.config, Sampler(step_sizes=CosineSteps(16), guidance_scale=2.0).plan((8, 8))
    )
    assert (summary.num_ar_steps, summary.num_refreshes) == (16, expected) and 0 < expected < 16
    assert 0 < summary.share_reused < 1 and summary.cache_bytes > 0 and summary.flops_ratio > 4
    assert f"{expected} refreshes, {summary.share_reused:.0%} of the work reused" in str(summary)


def test_settings_are_shown(pipe: MARPipeline) -> None:
    assert repr(pipe).startswith(
        "MARPipeline(small, cpu, float32, sampling={'guidance_scale': 2.0}, MARConfig("
    )
    shown = repr(_sampler(guidance_scale=3.0))
    assert shown.startswith("Sampler(order=HaltonOrder(")
    for part in ("step_sizes=CosineSteps(num_iter=4)", "guidance_scale=3.0", "max_timestep='model'"):
        assert part in shown
    cache = repr(LazyMAR(FixedRefresh(period=5), head=HeadCache(period=3)))
    assert cache.startswith("LazyMAR(refresh=FixedRefresh(") and "token=None" in cache
    assert "period=5" in cache and "HeadCache(period=3" in cache
    assert repr(NoCache()) == "NoCache()"


def test_a_second_call_composes_nothing(pipe: MARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []

    def counting(**arguments: Any) -> Any:
        composed.append(arguments["overrides"])
        return hydra.compose(**arguments)

    monkeypatch.setattr("mar_accel.config.compose.compose", counting)
    names = {"sampler": "halton", "cache": "token", "num_iter": 3, "num_diffusion_steps": 3}
    first = pipe(3, **names).tokens
    assert len(composed) == 1
    # Not for another seed, other labels or another model, either: its defaults are its own.
    other = MARPipeline(pipe.model, pipe.autoencoder, sampling={"guidance_scale": 3.0})
    guided = other(3, **names).tokens
    assert torch.equal(pipe(3, **names).tokens, first) and not torch.equal(guided, first)
    pipe([1, 2], seed=4, **names)
    assert len(composed) == 1
    assert torch.equal(guided, pipe(3, guidance_scale=3.0, **names).tokens)
    assert len(composed) == 2


def test_inside_another_hydra_application(pipe: MARPipeline, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("answer: 42\n")
    expected = pipe(3, sampler="halton", num_iter=2, num_diffusion_steps=2).tokens
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose_module._sampling_config.cache_clear()
        tokens = pipe(3, sampler="halton", num_iter=2, num_diffusion_steps=2).tokens
        assert MARPipeline.from_pretrained("random", model="digits").name == "digits"
        with pytest.raises(ConfigError, match=r"sampler=nope is unknown; choose one of .*mar"):
            pipe(3, sampler="nope")
        assert GlobalHydra.instance().hydra is before
        assert hydra.compose("theirs").answer == 42
    assert torch.equal(tokens, expected)
    assert not GlobalHydra.instance().is_initialized()


def test_inside_a_running_hydra_application(
    pipe: MARPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application of ``hydra.main`` with a search path, and a notebook that called ``initialize``."""
    (tmp_path / "theirs.yaml").write_text("answer: 42\n")
    monkeypatch.setattr("sys.argv", ["app", f"hydra.run.dir={tmp_path / 'out'}"])
    GlobalHydra.instance().clear()
    seen: list[Any] = []

    @hydra.main(version_base="1.3", config_path=str(tmp_path), config_name="theirs")
    def app(config: Any) -> None:
        compose_module._sampling_config.cache_clear()
        seen.append(pipe(3, sampler="halton", num_iter=2, num_diffusion_steps=2).tokens)
        seen.append(compose_module.compose_settings("generate", ["sampler=gtr"]).seed)
        seen.append(hydra.compose("theirs").answer)

    app()
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(config_dir=str(tmp_path), version_base="1.3")
    assert compose_module.compose_settings("generate", ["sampler=gtr"]).seed == 0
    assert hydra.compose("theirs").answer == 42
    GlobalHydra.instance().clear()
    assert seen[0].shape[0] == 1 and seen[1:] == [0, 42]


def test_a_new_default_of_a_model_is_its_yaml_and_one_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line, model folder and pipeline hand it on without knowing it."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "defaults:\n  - digits\n  - _self_\nname: mine\nweights: random\nsampling:\n  best_num_iter: 5\n"
    )
    (tmp_path / "steps_of_a_model.py").write_text(
        "from mar_accel.sampling.model_defaults import MODEL, ModelDefaults\n"
        "from mar_accel.sampling.step_sizes import CosineSteps\n"
        "class Best(CosineSteps, ModelDefaults):\n"
        "    model_defaults = {'num_iter': ('best_num_iter', 8)}\n"
        "    def __init__(self, num_iter: int | str = MODEL):\n"
        "        self.num_iter = num_iter\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    searched = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    best = ["sampler.step_sizes._target_=steps_of_a_model.Best", "sampler.step_sizes.num_iter=model"]
    settings = compose_settings("generate", [searched, "model=mine", *best, "sampler.num_diffusion_steps=2"])
    session = Session.from_settings(settings)
    assert session.sampler.guidance_scale == 4.0 and len(session.plan.steps) == 5
    without = build_sampler(compose_settings("generate", best))
    assert len(without.plan((16, 16)).steps) == 8

    from steps_of_a_model import Best  # type: ignore[import-not-found]

    pipe = MARPipeline(session.model, session.autoencoder, name="mine", sampling=settings.model.sampling)
    again = MARPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "mine"))
    sampler = Sampler(step_sizes=Best(), diffusion_steps=ConstantDiffusionSteps(2))
    for one in (pipe, again):
        one(3, sampler=sampler)
        assert one.summary().num_ar_steps == 5
        one(3, overrides=best, num_diffusion_steps=2)
        assert one.summary().num_ar_steps == 5


def test_unknown_model() -> None:
    with pytest.raises(ConfigError, match=r"model=nope is unknown; choose one of .*mar_base"):
        MARPipeline.from_pretrained("random", model="nope")


@pytest.mark.slow
def test_importing_it_does_not_import_lightning() -> None:
    check = (
        "import sys, mar_accel.pipeline; sys.exit('lightning' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.slow
def test_same_images_as_generate(tmp_path: Path) -> None:
    from mar_accel.config.compose import compose_settings
    from mar_accel.runs.generation import generate

    settings = ["sampler.num_iter=4", "sampler.num_diffusion_steps=10", "seed=5", "sampler=halton"]
    config = compose_settings(
        "generate",
        [
            *("model=digits", "model.weights=random", "logger=none", "callbacks=none"),
            *("dataset.num_images=4", "dataset.labels=[3,7]", "trainer.batch_size=3"),
            *(*settings, f"output_dir={tmp_path / 'run'}"),
        ],
    )
    generate(config)
    pipe = MARPipeline.from_pretrained("random", model="digits")
    images = pipe([3, 7, 3, 7], sampler="halton", num_iter=4, num_diffusion_steps=10, seed=5).images
    for index, image in enumerate(images):
        written = Image.open(tmp_path / "run" / "images" / f"{index:06d}.png")
        assert np.abs(_pixels(written) - _pixels(image)).max() <= 1
