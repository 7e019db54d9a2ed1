"""Which AR steps and head timesteps are guided, and what an unguided one costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_cache, build_sampler
from mar_accel.models.mar import MAR
from mar_accel.profiling.flops import count_flops
from mar_accel.runs.identity import Identity
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.guidance import (
    ConstantGuidance,
    Guidance,
    GuidanceSchedule,
    IntervalGuidance,
    LinearGuidance,
    ModelGuidance,
    Progress,
)
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps

from ..tiny import tiny_config

INTERVAL = "sampler/guidance_schedule=interval"
TINY = tiny_config()


class OnlyAt(GuidanceSchedule):
    """A schedule of one's own: guides some AR steps."""

    def __init__(self, *steps: int):
        self.steps = steps

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return guidance_scale if progress.index in self.steps else 1.0


def _sampler(*overrides: str) -> Sampler:
    short = ["sampler.num_iter=6", "sampler.num_diffusion_steps=8", "sampler.guidance_scale=3"]
    return build_sampler(compose_settings("generate", [*short, *overrides]))


def _guided(sampler: Sampler, grid: tuple[int, int] = (16, 16)) -> list[int]:
    return [step.index for step in sampler.plan(grid).steps if step.guided]


# eMIGM's published settings: K, interval, first and last guided step.
EMIGM = [
    (16, 0.1, 0.3, 11, 13),
    (16, 0.2, 0.4, 9, 11),
    (128, 0.18, 0.6, 51, 103),
    (128, 0.05, 0.4, 76, 120),
    (128, 0.3, 0.7, 38, 88),
    (16, 0.15, 0.35, 10, 12),
    (64, 0.25, 0.5, 32, 47),
]


@pytest.mark.parametrize(("num_iter", "low", "high", "first", "last"), EMIGM)
def test_intervals_of_ar_time_are_those_published(
    num_iter: int, low: float, high: float, first: int, last: int
) -> None:
    schedule = IntervalGuidance("ar_time", low, high, "constant")
    sampler = Sampler(step_sizes=CosineSteps(num_iter), guidance_schedule=schedule, guidance_scale=4.0)
    plan = sampler.plan((16, 16))
    assert [step.index for step in plan.steps if step.guided] == list(range(first, last + 1))
    assert {step.guidance_scale for step in plan.steps} == {1.0, 4.0}


def test_an_interval_of_decoded_tokens() -> None:
    sampler = _sampler(INTERVAL, "sampler.guidance_schedule.low=0.25", "sampler.guidance_schedule.high=0.75")
    linear = _sampler().plan((16, 16)).steps
    steps = sampler.plan((16, 16)).steps
    inside = [0.25 < step.stop / 256 <= 0.75 for step in steps]
    assert 0 < sum(inside) < len(steps) and [step.guided for step in steps] == inside
    for step, whole in zip(steps, linear, strict=True):
        assert step.guidance_scale == (whole.guidance_scale if step.guided else 1)


def test_the_whole_range_is_the_schedule_inside() -> None:
    for over, high in (("decoded", 1), ("ar_time", 1), ("timestep", 999)):
        keys = [f"sampler.guidance_schedule.{key}" for key in ("over", "low", "high")]
        whole = _sampler(INTERVAL, f"{keys[0]}={over}", f"{keys[1]}=0", f"{keys[2]}={high}")
        assert whole.plan((16, 16)) == _sampler().plan((16, 16))


def test_a_range_of_timesteps_that_no_chain_visits_is_no_guidance() -> None:
    parts: dict[str, Any] = {"guidance_scale": 3.0, "max_timestep": 950}
    clipped = Sampler(guidance_schedule=IntervalGuidance("timestep", 960, 999), **parts)
    assert _guided(clipped) == [] and not clipped.plan((16, 16)).guided
    assert len(_guided(Sampler(guidance_schedule=IntervalGuidance("timestep", 940, 999), **parts))) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("decoded", 0.5, 0.5), r"0 ≤ low < high ≤ 1 over decoded, got low=0\.5 and high=0\.5"),
        (("ar_time", -0.1, 0.5), "low=-0.1 and high=0.5"),
        (("decoded", float("nan"), 0.5), "low=nan"),
        (("timestep", 0, 1000), "integers with 0 ≤ low ≤ high ≤ 999 .* got low=0 and high=1000"),
        (("timestep", 0.5, 900), r"must be integers .* got low=0\.5"),
        (("tokens", 0, 1), r"guidance_schedule\.over must be .* got tokens"),
        (("decoded", 0, 1, "cosine"), r"guidance_schedule\.schedule must be .* got cosine"),
    ],
)
def test_ranges_are_checked(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IntervalGuidance(*arguments)


def test_both_forms_of_the_formula_agree() -> None:
    conditional, unconditional = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    guidance = Guidance(2.5)
    expected = unconditional + 2.5 * (conditional - unconditional)
    torch.testing.assert_close(guidance.combine(conditional, unconditional), expected)
    torch.testing.assert_close(guidance.extrapolate(conditional, conditional - unconditional), expected)


CACHES = ["none", "token", "condition", "head", "lazymar"]
HEAD = {"cache.head.period_for=8", "cache.head.refresh_below=0.0"}


def _cache(name: str) -> CachePolicy:
    head = sorted(HEAD) if name in ("head", "lazymar") else []
    return build_cache(compose_settings("generate", [f"cache={name}", *head]))


@pytest.fixture(scope="module")
def model() -> MAR:
    torch.manual_seed(0)
    model = MAR(TINY).eval()
    for parameter in model.diffloss.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _decode(model: MAR, sampler: Sampler, policy: CachePolicy) -> Tensor:
    plan = sampler.plan(TINY.grid)
    policy.check(TINY, plan, sampler.solver)
    noise = sampler.draw(plan, 0, [0, 1], TINY.token_dim)
    engine = Engine(model, plan, sampler.solver, policy, sampler.selection)
    return decode(engine, model.condition(torch.tensor([1, 2])), noise)


@pytest.mark.parametrize("cache", [cache for cache in CACHES if cache != "condition"])
def test_a_scale_of_1_everywhere_is_no_guidance(model: MAR, cache: str) -> None:
    everywhere, unguided = _sampler(), _sampler("sampler.guidance_scale=1")
    everywhere.guidance_schedule = OnlyAt()
    assert everywhere.plan(TINY.grid) == unguided.plan(TINY.grid)
    counts = [count_flops(TINY, sampler, _cache(cache)) for sampler in (everywhere, unguided)]
    assert counts[0] == counts[1]
    tokens = [_decode(model, sampler, _cache(cache)) for sampler in (everywhere, unguided)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("cache", ["none", "head"])
def test_an_unguided_step_costs_one_branch(cache: str) -> None:
    """A step costs what it would in a decode whose steps are all guided as it is."""
    mixed, guided, unguided = _sampler(), _sampler(), _sampler("sampler.guidance_scale=1")
    mixed.guidance_schedule = OnlyAt(2, 5)
    per_step = [count_flops(TINY, sampler, _cache(cache)).per_step for sampler in (mixed, guided, unguided)]
    for index, (count, both, one) in enumerate(zip(*per_step, strict=True)):
        assert one < both and count == (both if index in (2, 5) else one)


def test_a_range_of_timesteps_costs_one_branch_of_the_head_outside_it(model: MAR) -> None:
    """Eight timesteps from 0 to 950, of which three are inside."""
    inside, guided, unguided = _sampler(), _sampler(), _sampler("sampler.guidance_scale=1")
    inside.guidance_schedule = IntervalGuidance("timestep", 200, 600, "linear")
    count, both, one = (count_flops(TINY, sampler, NoCache()) for sampler in (inside, guided, unguided))
    assert (count.encoder, count.decoder) == (both.encoder, both.decoder)
    assert one.head < count.head < both.head
    per_timestep = both.head - one.head
    share = (count.head - one.head) / per_timestep
    assert 3 / 8 < share < 4.5 / 8  # and the embedding of z, once for each branch
    assert not torch.equal(_decode(model, inside, NoCache()), _decode(model, guided, NoCache()))


class Definition(CachePolicy):
    """Both branches of everything, at all steps; combined only where they should be."""

    def __init__(self, guidance: IntervalGuidance):
        self.guidance = guidance

    def denoiser(self, net, z, time_embeddings, step, guided):  # type: ignore[no-untyped-def]
        conditional = z.chunk(2)[0] if any(guided) else z

        def denoise(x: Tensor, index: int) -> tuple[Tensor, Tensor]:
            branches = [conditional, z.chunk(2)[1]] if guided[index] else [conditional]
            out = []
            for rows in branches:
                activated = net.activate(time_embeddings[index], net.cond_embed(rows))
                out.append(net.evaluate(x, activated).chunk(2, dim=-1))
            epsilon, v = out[0]
            if guided[index]:
                epsilon = out[1][0] + step.guidance_scale * (epsilon - out[1][0])
            return epsilon, v

        return denoise


@pytest.mark.parametrize("period", [1, 2])
def test_a_range_of_timesteps_follows_its_definition(model: MAR, period: int) -> None:
    """Also with the head cache, whose reused timesteps are exact where nothing is reused."""
    schedule = IntervalGuidance("timestep", 200, 600, "linear")
    sampler = _sampler()
    sampler.guidance_schedule = schedule
    expected = _decode(model, sampler, Definition(schedule))
    torch.testing.assert_close(_decode(model, sampler, NoCache()), expected, rtol=1e-4, atol=1e-4)
    keys = [f"cache.head.period={period}", "cache.head.period_for=null", "cache.head.refresh_below=0.0"]
    tokens = _decode(model, sampler, build_cache(compose_settings("generate", ["cache=head", *keys])))
    assert tokens.isfinite().all()
    if period == 1:
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


def test_a_policy_is_given_the_branches_of_a_step(model: MAR) -> None:
    rows: list[int] = []

    class Recorder(CachePolicy):
        def conditioning_vectors(self, state: DecodeState, step):  # type: ignore[no-untyped-def]
            z = super().conditioning_vectors(state, step)
            rows.append(len(z))
            return z

    sampler = _sampler()
    sampler.guidance_schedule = OnlyAt(1, 2)
    _decode(model, sampler, Recorder())
    assert rows == [2, 4, 4, 2, 2, 2]


def test_flops_of_mar_b_where_a_quarter_of_the_steps_is_guided() -> None:
    """Sixteen AR steps: 6.03 TFLOPs if all are guided, 4.07 if the last four are."""
    counts = []
    for overrides in ([], [INTERVAL, "sampler.guidance_schedule.low=0.65"]):
        config = compose_settings(
            "generate", ["model=mar_base", "model.weights=random", "sampler.num_iter=16", *overrides]
        )
        architecture, sampler = build_architecture(config.model), build_sampler(config)
        counts.append(count_flops(architecture, sampler, NoCache()))
    assert _guided(sampler) == [12, 13, 14, 15]
    assert [round(count.total / 1e12, 2) for count in counts] == [6.03, 4.07]


def test_the_schedule_inside_can_be_ones_own() -> None:
    schedule = IntervalGuidance("decoded", 0.0, 1.0, OnlyAt(3))
    assert _guided(Sampler(guidance_schedule=schedule, guidance_scale=2.0)) == [3]


@pytest.mark.parametrize("schedule", [ModelGuidance, IntervalGuidance])
def test_the_schedule_is_the_models(schedule: type[ModelGuidance | IntervalGuidance]) -> None:
    """MAR's is linear, which is also that of a model without a word on it; LightGen's is constant."""
    progress = Progress(5, 32, 0.75)
    linear, constant = LinearGuidance().at(3.0, progress), ConstantGuidance().at(3.0, progress)
    assert linear != constant
    assert schedule().at(3.0, progress) == schedule().for_model({}).at(3.0, progress) == linear
    assert schedule().for_model({"guidance_schedule": "constant"}).at(3.0, progress) == constant
    assert (
        schedule(schedule="linear").for_model({"guidance_schedule": "constant"}).at(3.0, progress) == linear
    )
    for wrong in ("Linear", "cosine", ""):
        with pytest.raises(ConfigError, match="must be linear, constant or model"):
            schedule(schedule=wrong)
        with pytest.raises(ConfigError, match=r"model\.sampling\.guidance_schedule"):
            schedule().for_model({"guidance_schedule": wrong})


@pytest.mark.parametrize(
    ("model", "linear"), [("digits", True), ("mar_base", True), ("scenes", False), ("lightgen_base", False)]
)
@pytest.mark.parametrize("sampler", ["mar", "gtr", "disa", "halton"])
def test_every_sampler_guides_a_model_as_it_was_published(sampler: str, model: str, linear: bool) -> None:
    data = [] if linear else ["dataset=prompts", "dataset.prompts=[a six]"]
    config = compose_settings("plan", [f"model={model}", "model.weights=random", f"sampler={sampler}", *data])
    built = build_sampler(config)
    scales = {step.guidance.scale for step in built.plan((16, 16)).steps}
    assert (len(scales) > 1) == linear


def test_the_models_schedule_is_part_of_what_names_the_images() -> None:
    names = [
        Identity.of(compose_settings("generate", [f"model.sampling.guidance_schedule={schedule}", *given]))
        for schedule in ("linear", "constant")
        for given in ([], ["sampler/guidance_schedule=constant"])
    ]
    assert names[0].images_hash != names[2].images_hash and names[1].images_hash == names[3].images_hash


@pytest.mark.parametrize("value", ["abc", "null", "2", "true"])
def test_a_wrong_schedule_of_the_model_is_refused_where_nothing_uses_it(value: str) -> None:
    overrides = ["sampler/guidance_schedule=linear", f"model.sampling.guidance_schedule={value}"]
    with pytest.raises(
        ConfigError, match=r"model\.sampling\.guidance_schedule must be constant or linear, got"
    ):
        compose_settings("generate", overrides)
