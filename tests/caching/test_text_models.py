"""Text-to-image models: every sampler and cache, what is left out exactly, and independence of the batch."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.memory import cache_memory
from mar_accel.config.compose import compose_settings
from mar_accel.config.members import member_names
from mar_accel.config.settings import Settings
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.lightgen import LightGen, LightGenConfig
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState

from .row_by_row import RowByRow

SIZES = {"embed_dim": 32, "num_heads": 2, "encoder_depth": 2, "decoder_depth": 5, "head_depth": 3}
CONFIG = LightGenConfig(
    **SIZES, grid=(8, 8), train_grid=(4, 4), patch_size=1, latent_channels=4, head_width=32,
    cross_depth=2, text_depth=1, caption_channels=12, max_text_length=6,
)  # fmt: skip
SHORT = ["sampler.num_diffusion_steps=9", "sampler.guidance_scale=2"]
LAZY = ["cache.refresh.warmup_steps=3", "cache.refresh.period=3", "sampler.num_iter=12"]


@pytest.fixture(scope="module")
def model() -> LightGen:
    torch.manual_seed(0)
    model = LightGen(CONFIG).eval()
    for module in model.diffloss.net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return model


@lru_cache
def _settings(*overrides: str) -> Settings:
    return compose_settings("generate", ["model=scenes", "dataset=scenes", *SHORT, *overrides])


def _features(batch: int) -> Tensor:
    return torch.randn(batch, 6, 12, generator=torch.Generator().manual_seed(1))


def _decode(
    model: LightGen, *overrides: str, indices: tuple[int, ...] = (0, 1, 2), observer: Observer | None = None
) -> Tensor:
    settings = _settings(*overrides)
    sampler, cache = build_sampler(settings), build_cache(settings)
    plan = sampler.plan(CONFIG.grid)
    cache.check(CONFIG, plan, sampler.solver)
    noise = sampler.draw(plan, 0, indices, CONFIG.token_dim)
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    with torch.inference_mode():
        return decode(engine, model.condition(_features(3)[list(indices)]), noise, observer)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


PAIRS = [
    *((sampler, cache) for sampler in member_names("sampler") for cache in ("none", "lazymar_text")),
    *((sampler, cache) for sampler in ("mar", "gtr") for cache in member_names("cache")),
]


@pytest.mark.parametrize(("sampler", "cache"), sorted(set(PAIRS)))
def test_every_sampler_works_with_every_cache(model: LightGen, sampler: str, cache: str) -> None:
    cosine = [] if sampler.startswith("gtr") else ["sampler.num_iter=12"]
    tokens = _decode(model, f"sampler={sampler}", f"cache={cache}", *cosine, indices=(0,))
    assert tokens.shape == (1, 64, 4) and bool(tokens.isfinite().all())


@pytest.mark.parametrize("schedule", ["linear", "interval"])
def test_what_is_left_out_changes_nothing(model: LightGen, schedule: str) -> None:
    overrides = [f"sampler.guidance_schedule={schedule}", "sampler.num_iter=12"]
    left_out, published = (_decode(model, *overrides, f"cache={name}") for name in ("none", "as_published"))
    assert _distance(left_out, published) < 1e-4


@pytest.mark.parametrize("schedule", ["constant", "interval"])
@pytest.mark.parametrize("cache", ["token", "condition", "lazymar_text", "lazymar"])
def test_caches_are_near_no_cache_and_equal_it_if_they_always_refresh(
    model: LightGen, cache: str, schedule: str
) -> None:
    overrides = [f"sampler.guidance_schedule={schedule}", f"cache={cache}"]
    exact = _decode(model, overrides[0], "sampler.num_iter=12")
    cached = _decode(model, *overrides, *LAZY)
    assert 1e-6 < _distance(cached, exact) < 1
    always = ["cache.refresh.period=1", "sampler.num_iter=12"]
    always += ["cache.head.period=1"] if cache.startswith("lazymar") else []
    assert _distance(_decode(model, *overrides, *always), exact) < 1e-5


@pytest.mark.parametrize(
    "method",
    [
        ("cache=none", "sampler.num_iter=12"),
        ("cache=lazymar_text", *LAZY),
        ("sampler=gtr_lightgen", "cache=lazymar_text", *LAZY[:2]),
    ],
    ids=lambda method: "-".join(method[:2]),
)
def test_only_the_order_of_sums_depends_on_the_batch(model: LightGen, method: tuple[str, ...]) -> None:
    """With products row by row, an image is the same to the last bit: alone, in a batch, in any order."""
    with RowByRow():
        first, mixed = (_decode(model, *method, indices=indices) for indices in ((0,), (2, 0)))
        together = _decode(model, *method)
    assert torch.equal(first[0], together[0])
    assert torch.equal(mixed, together[[2, 0]])


@pytest.mark.parametrize("cache", ["none", "lazymar_text", "lazymar"])
def test_an_image_does_not_depend_on_its_batch(model: LightGen, cache: str) -> None:
    lazy = LAZY if cache != "none" else ["sampler.num_iter=12"]
    together = _decode(model, f"cache={cache}", *lazy)
    for index in range(3):
        alone = _decode(model, f"cache={cache}", *lazy, indices=(index,))
        # As for class models (test_batches.py): less than a tenth of a step of 1 in 255.
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=2 / 255 / 10)


def test_the_trunk_runs_once_for_both_branches(model: LightGen) -> None:
    rows = []

    class Rows(Observer):
        def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
            rows.append((len(x), step.num_branches))

    _decode(model, "sampler.num_iter=12", observer=Rows())
    assert rows == [(3, 2)] * 12


def test_the_condition_cache_costs_more_than_it_saves() -> None:
    """Each position is predicted once. A kept difference serves once, and keeping it costs both branches."""
    totals = {}
    for name in ("none", "token", "condition"):
        settings = _settings(f"cache={name}", *(LAZY if name != "none" else ["sampler.num_iter=12"]))
        totals[name] = count_flops(CONFIG, build_sampler(settings), build_cache(settings)).total
    assert totals["token"] < totals["none"] < totals["condition"]


@pytest.mark.parametrize("cache", ["lazymar", "lazymar_text"])
def test_stated_memory_is_what_is_kept(model: LightGen, cache: str) -> None:
    settings = _settings(f"cache={cache}", *LAZY)
    sampler, policy = build_sampler(settings), build_cache(settings)
    assert isinstance(policy, LazyMAR)
    parts = policy.token, policy.condition
    plan, most = sampler.plan(CONFIG.grid), 0
    noise = sampler.draw(plan, 0, [0], CONFIG.token_dim)

    class Largest(Observer):
        def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
            nonlocal most
            kept = [tensor for part in parts if part is not None for tensor in part.tensors()]
            most = max(most, sum(tensor.numel() * tensor.element_size() for tensor in kept))

    engine = Engine(model, plan, sampler.solver, policy, sampler.selection)
    with torch.inference_mode():
        decode(engine, model.condition(_features(1)), noise, Largest())
    stated = cache_memory(policy, CONFIG, plan, bytes_per_element=4)
    assert stated.token + stated.condition == most


def test_counted_flops_include_the_text_once(model: LightGen) -> None:
    counts = [
        count_flops(CONFIG, build_sampler(_settings(f"sampler.num_iter={k}")), build_cache(_settings()))
        for k in (4, 8)
    ]
    dim, length = 32, 6
    text_block = 2 * length * dim * (3 * dim + dim + 8 * dim) + 4 * length * length * dim
    keys = 2 * 2 * (length + 1) * dim * 2 * dim
    embedding = 2 * length * (12 * dim + dim * dim) + text_block
    assert {count.condition for count in counts} == {embedding + keys}
    assert all(sum(count.per_step) == count.total for count in counts)


@pytest.mark.parametrize("grid", [(32, 32), (16, 16), (8, 24)])
def test_stages_of_lightgen_have_their_steps_on_any_grid(grid: tuple[int, int]) -> None:
    plan = build_sampler(_settings("sampler=gtr_lightgen")).plan(grid)
    assert [[step.stage for step in plan.steps].count(stage) for stage in range(4)] == [8, 3, 3, 2]
    assert len({step.guidance_scale for step in plan.steps}) == 1
    if grid == (32, 32):
        assert [step.num_tokens for step in plan.steps][::5] == [16, 16, 43, 256]
