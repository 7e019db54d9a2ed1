"""What the caches must not change, must change, and must leave behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.models.mar import MAR
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.state import DecodeState

from .conftest import EAGER_REFRESH, SHORT, small_model

Decode = Callable[..., Tensor]
ALONE = ["token", "condition", "head"]
COMBINATIONS = [
    ["cache=token"],
    ["cache=condition"],
    ["cache=head"],
    ["cache=lazymar"],
    ["cache=lazymar", "cache.head=null"],
    ["cache=lazymar", "cache.condition=null"],
    ["cache=lazymar", "cache.token=null"],
]
LOW_RATIO = "cache.token.ratios=0.1"


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def plain(model: MAR) -> Callable[..., Tensor]:
    """The unaccelerated tokens, by overrides."""
    known: dict[tuple[str, ...], Tensor] = {}

    def tokens(run: Decode, *overrides: str) -> Tensor:
        if overrides not in known:
            known[overrides] = run("cache=none", *overrides)
        return known[overrides]

    return tokens


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("scale", ["1", "2"])
def test_refresh_everywhere_is_no_cache(run: Decode, plain: Any, combination: list[str], scale: str) -> None:
    guidance = f"sampler.guidance_scale={scale}"
    if scale == "1" and combination == ["cache=condition"]:
        with pytest.raises(ConfigError, match=r"cache\.condition"):
            run(*combination, guidance)
        return
    always = ["cache.refresh.period=1"]
    if "cache=head" in combination or (
        "cache=lazymar" in combination and "cache.head=null" not in combination
    ):
        always.append("cache.head.period=1")
    assert _distance(run(*combination, *always, guidance), plain(run, guidance)) <= 1e-6


@pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
def test_each_combination_is_close_but_not_equal(run: Decode, plain: Any, combination: list[str]) -> None:
    tokens = run(*combination, *EAGER_REFRESH)
    assert tokens.isfinite().all()
    assert 1e-6 < _distance(tokens, plain(run)) < 1


def test_everything_off_is_no_cache(run: Decode, plain: Any) -> None:
    off = ["cache.token=null", "cache.condition=null", "cache.head=null"]
    assert torch.equal(run("cache=lazymar", *off), plain(run))


def test_condition_cache_is_exact_where_the_branches_agree(run: Decode) -> None:
    """Where the unconditional embedding is the class's, the difference is zero and stays zero."""
    twin = small_model()
    with torch.no_grad():
        twin.class_emb.weight.copy_(twin.fake_latent.expand_as(twin.class_emb.weight))
    tokens = run("cache=condition", *EAGER_REFRESH, network=twin)
    assert _distance(tokens, run("cache=none", network=twin)) <= 1e-5


@pytest.mark.parametrize("prune_block", [0, 2, 4])
def test_token_cache_is_exact_without_an_encoder_and_with_all_tokens(run: Decode, prune_block: int) -> None:
    """All that the token cache then leaves out is known exactly."""
    shallow = small_model(encoder_depth=0)
    overrides = ["cache.token.ratios=1.0", f"cache.token.prune_block={prune_block}"]
    tokens = run("cache=token", *overrides, *EAGER_REFRESH, network=shallow)
    assert _distance(tokens, run("cache=none", network=shallow)) <= 1e-5


def test_the_last_block_prunes_nothing(run: Decode) -> None:
    """Behind the last block there is nothing to leave out, so the ratio does not matter."""
    last = ["cache=token", "cache.token.prune_block=4", *EAGER_REFRESH]
    assert torch.equal(run(*last, LOW_RATIO), run(*last, "cache.token.ratios=1.0"))


def test_fewer_tokens_change_more(run: Decode, plain: Any) -> None:
    distances = [
        _distance(
            run("cache=token", *EAGER_REFRESH, f"cache.token.ratios={ratio}", "cache.token.minimum_extra=0"),
            plain(run),
        )
        for ratio in (1.0, 0.5, 0.0)
    ]
    assert distances == sorted(distances)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("feature", ["value", "key"])
def test_the_measure_chooses_the_tokens(run: Decode, similarity: str, feature: str) -> None:
    measure = [f"cache.token.similarity={similarity}", f"cache.token.feature={feature}"]
    published = run("cache=token", *EAGER_REFRESH, LOW_RATIO, "cache.token.minimum_extra=3")
    tokens = run("cache=token", *EAGER_REFRESH, LOW_RATIO, "cache.token.minimum_extra=3", *measure)
    assert torch.equal(tokens, published) == (measure[0].endswith("cosine") and feature == "value")


def test_threshold_below_all_keeps_nothing_and_above_all_everything(run: Decode) -> None:
    token = ["cache=token", *EAGER_REFRESH, "cache.token.minimum_extra=20"]
    everything = run(*token, LOW_RATIO)
    assert torch.equal(run(*token, LOW_RATIO, "cache.token.threshold=2"), everything)
    nothing = run(*token, LOW_RATIO, "cache.token.threshold=-2")
    required = run(*token[:-1], "cache.token.ratios=0.0", "cache.token.minimum_extra=0")
    assert _distance(nothing, required) <= 1e-5 < _distance(nothing, everything)


def test_images_do_not_depend_on_their_batch(run: Decode) -> None:
    lazy = ["cache=lazymar", *EAGER_REFRESH, LOW_RATIO, "cache.token.minimum_extra=3"]
    assert _distance(run(*lazy, batch=1), run(*lazy, batch=3)[:1]) <= 1e-5


@pytest.mark.parametrize("length", [1, 2, 5])
def test_chains_shorter_than_the_period(run: Decode, length: int) -> None:
    short = [f"sampler.num_diffusion_steps={length}"]
    distance = _distance(run("cache=head", *short), run("cache=none", *short))
    # With one or two timesteps, the first and 0, all are refreshes.
    assert distance == 0 if length < 3 else 1e-6 < distance < 1


def test_the_head_period_is_for_chains_of_a_length() -> None:
    """T = 100 has the published period, shorter chains the same stretch of noise levels."""
    by_length = HeadCache(period=7, period_for=100)
    assert [by_length.period_in(steps) for steps in (100, 95, 50, 25, 20, 1)] == [7, 7, 4, 2, 1, 1]
    refreshed = [index for index in reversed(range(50)) if by_length.refreshes(index, 50)]
    assert refreshed == [49, *range(48, -1, -4)]
    assert HeadCache(period=7, period_for=None).period_in(20) == 7


def test_the_last_timesteps_of_a_chain_are_refreshed_where_asked() -> None:
    late = HeadCache(period=14, period_for=100, refresh_below=0.08)
    refreshed = [index for index in range(100) if late.refreshes(index, 100)]
    assert refreshed == [*range(8), *range(14, 99, 14), 99]
    # Of 20 timesteps, 1.6 are below the share: the last two.
    refreshed = [index for index in range(20) if late.refreshes(index, 20)]
    assert refreshed == [0, 1, *range(3, 20, 3), 19]


def test_refreshing_all_of_a_chain_is_no_cache(run: Decode, plain: Any) -> None:
    assert _distance(run("cache=head", "cache.head.refresh_below=1"), plain(run)) <= 1e-6


def test_lazymar_late_computes_no_more_timesteps_than_lazymar() -> None:
    published, late = (
        build_cache(
            compose_settings("generate", ["model=mar_base", "model.weights=random", f"cache={cache}"])
        )
        for cache in ("lazymar", "lazymar_late")
    )
    assert isinstance(published, LazyMAR) and isinstance(late, LazyMAR) and published.head and late.head
    for num_steps, expected in ((100, [16, 16]), (48, [17, 11]), (20, [20, 9])):
        refreshed = [
            sum(head.refreshes(index, num_steps) for index in range(num_steps))
            for head in (published.head, late.head)
        ]
        assert refreshed == expected


@pytest.mark.parametrize("sampler", ["gtr", "gtr_19", "gtr_16", "halton", "disa"])
def test_works_with_every_sampler(run: Decode, model: MAR, sampler: str) -> None:
    overrides = [f"sampler={sampler}"]
    if sampler == "gtr":
        overrides.append("sampler.num_iter=null")
    lazy_steps: list[int] = []
    cache = build_cache(compose_settings("generate", [*SHORT, "cache=lazymar", *EAGER_REFRESH]))
    assert isinstance(cache, LazyMAR)
    due = cache.refresh.due
    cache.refresh.due = lambda step: due(step) or bool(lazy_steps.append(step.index))  # type: ignore[func-returns-value,method-assign]
    tokens = run(*overrides, cache=cache)
    assert lazy_steps and 1e-6 < _distance(tokens, run(*overrides, "cache=none")) < 1


def test_two_chains_of_one_step_do_not_share_a_head_cache(run: Decode) -> None:
    """Refreshing at every timestep must stay exact where a step has chains of 9 and of 13."""
    fts = ["sampler.selection=fts", "cache=head", "cache.head.period=1"]
    overrides = ["sampler/selection=fts", "sampler.selection.num_diffusion_steps=13"]
    exact = run(*overrides, "cache=none")
    assert _distance(run(*overrides, *fts[1:]), exact) <= 1e-6
    assert 1e-6 < _distance(run(*overrides, "cache=head"), exact) < 1


class _NoHost(TorchDispatchMode):
    """Fails on operations whose result the host has to know."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select"), name
        return func(*args, **kwargs or {})


def test_nothing_comes_to_the_host(run: Decode) -> None:
    # It would notice: torch may rename the operation.
    with pytest.raises(AssertionError, match="_local_scalar_dense"), _NoHost():
        torch.ones(1).item()
    with _NoHost():
        run("cache=lazymar", *EAGER_REFRESH, LOW_RATIO, "cache.token.threshold=0.9")


def test_kept_tensors_have_the_compute_dtype_and_are_freed(run: Decode, model: MAR) -> None:
    cache = build_cache(compose_settings("generate", [*SHORT, "cache=lazymar", *EAGER_REFRESH]))
    assert isinstance(cache, LazyMAR)
    token, condition = cache.token, cache.condition
    assert token is not None and condition is not None
    kept: list[weakref.ref[Tensor]] = []

    class Look(Observer):
        def step_end(self, state: DecodeState, step: ARStep) -> None:
            if step.index == 7:
                assert token.store is not None
                tensors = [*token.store.encoder.values(), *token.store.decoder.values()]
                assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
                kept.extend(weakref.ref(tensor) for tensor in (*token.tensors(), *condition.tensors()))

    with torch.autocast("cpu", torch.bfloat16):
        run(cache=cache, observer=Look())
    assert kept and not any(reference() is not None for reference in kept)
    assert [*token.tensors(), *condition.tensors()] == []


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["cache=token", "cache.token.prune_block=5"],
            r"prune_block must be between 0 and 4 for 5 decoder blocks, .* got 5",
        ),
        (["cache=token", "cache.token.prune_block=-1"], r"prune_block must be .* got -1"),
        (["cache=token", "cache.token.ratios=1.5"], r"ratios must be between 0 and 1, got 1\.5"),
        (
            ["cache=token", "cache.token.ratios=[[1,0.5]]"],
            r"ratios must be pairs .* got the first steps \[1\]",
        ),
        (["cache=token", "cache.token.ratio_by=time"], r"ratio_by must be .* got time"),
        (["cache=token", "cache.token.similarity=dot"], r"similarity must be .* got dot"),
        (["cache=token", "cache.token.minimum_extra=-1"], r"minimum_extra must be ≥ 0, got -1"),
        (["cache=token", "cache.refresh.period=0"], r"refresh\.period must be ≥ 1 .* got 0"),
        (["cache=token", "cache.refresh.warmup_steps=-1"], r"warmup_steps must be ≥ 0, got -1"),
        (["cache=token", "cache.refresh.max_new_share=2"], r"max_new_share must be .* got 2"),
        (["cache=head", "cache.head.period=0"], r"head\.period must be ≥ 1 .* got 0"),
        (["cache=head", "cache.head.period_for=0"], r"head\.period_for must be ≥ 1 .* got 0"),
        (["cache=head", "cache.head.skipped_blocks=[-1]"], r"skipped_blocks must be .* got \[-1\]"),
        (["cache=head", "cache.head.compute_above=2"], r"compute_above must be .* got 2"),
        (["cache=head", "cache.head.refresh_below=-0.1"], r"head\.refresh_below must be .* got -0\.1"),
        (["cache=condition", "cache/refresh=adaptive"], r"cache\.token=null"),
        (
            ["cache=token", "cache/refresh=listed", "cache.refresh.steps=[0,12]"],
            r"steps must be between 0 and 11 .* got 12",
        ),
        (["cache=token", "cache/refresh=listed", "cache.refresh.steps=[1,2]"], r"include 0 .* got \[1, 2\]"),
        (
            ["cache=token", "cache/refresh=listed", "cache.refresh.steps=[0,4]", "cache.refresh.num_steps=8"],
            r"made for 8 AR steps \(cache\.refresh\.num_steps\), and this sampler has 12; calibrate",
        ),
        (
            ["cache=token", "cache/refresh=adaptive", "cache.refresh.threshold=-1"],
            r"threshold must be ≥ 0, got -1",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(run: Decode, overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        run(*overrides)


def test_a_solver_that_jumps_between_timesteps_is_refused(model: MAR) -> None:
    config = compose_settings("generate", [*SHORT, "cache=lazymar"])
    sampler, cache = build_sampler(config), build_cache(config)
    sampler.solver.visits_every_timestep = False
    with pytest.raises(ConfigError, match=r"cache\.head .* sampler\.solver"):
        cache.check(model.config, sampler.plan(model.config.grid), sampler.solver)


def test_parts_are_chosen_by_name(model: MAR) -> None:
    config = compose_settings("generate", ["cache=token", "cache.condition=residual", "cache.head=periodic"])
    everything = compose_settings("generate", ["cache=lazymar"])
    assert config.cache == everything.cache
