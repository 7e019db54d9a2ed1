"""A part of one's own that returns something else than it should is refused with its class's name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.refresh import FixedRefresh, StaticRefresh
from mar_accel.errors import ConfigError
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.diffusion_steps import ConstantDiffusionSteps, DiffusionSteps
from mar_accel.sampling.guidance import GuidanceSchedule, Progress
from mar_accel.sampling.orders import RandomOrder
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.selection import RandomSelection
from mar_accel.sampling.solvers import DDPM
from mar_accel.sampling.state import DecodeState
from mar_accel.sampling.step_sizes import CosineSteps, StepSize, StepSizes

from ..tiny import tiny_config

GRID = (16, 16)
CONFIG = tiny_config()


class MySteps(StepSizes):
    def __init__(self, *sizes: int):
        self.given = sizes

    def sizes(self, stage_sizes: Sequence[int]) -> Sequence[int]:
        return self.given


class MyStages(RandomOrder):
    def __init__(self, *sizes: int):
        self.given = sizes

    def stage_sizes(self, grid: tuple[int, int]) -> tuple[int, ...]:
        return self.given


class MyOrder(RandomOrder):
    def __init__(self, order: Tensor):
        self.order = order

    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        return self.order


class MyLengths(DiffusionSteps):
    def __init__(self, *lengths: Any):
        self.lengths = lengths

    def per_step(self, steps: Sequence[StepSize]) -> list[int]:
        return list(self.lengths)


class MyGuidance(GuidanceSchedule):
    def __init__(self, scale: Any):
        self.given = scale

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        return self.given


class Greedy(RandomSelection):
    def num_selected(self, num_tokens: int) -> int:
        return num_tokens + 1


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "too few tokens": (
        {"step_sizes": MySteps(100, 100)},
        r"sampler\.step_sizes \(MySteps\): step sizes must add up to the 256 tokens of the grid, got 200\.",
    ),
    "too many tokens": ({"step_sizes": MySteps(100, 200)}, r"\(MySteps\): step sizes must .* got 300"),
    "a step without tokens": (
        {"step_sizes": MySteps(128, 0, 128)},
        r"\(MySteps\): sizes must return a list of integers ≥ 1, got 0 at AR step 1\.",
    ),
    "half a token": (
        {"step_sizes": MySteps(127.5, 128.5)},
        r"\(MySteps\): sizes must .* got 127\.5 at AR step 0\.",
    ),  # type: ignore[arg-type]
    "no step": ({"step_sizes": MySteps()}, r"256 tokens of the grid, got 0"),
    "stages that are not the grid": (
        {"order": MyStages(128, 64)},
        r"sampler\.order \(MyStages\): stage_sizes must add up to the 256 tokens of the grid, got 192",
    ),
    "an empty stage": (
        {"order": MyStages(256, 0)},
        r"\(MyStages\): stage_sizes must return a list of integers ≥ 1, got 0 at stage 1",
    ),
    "a T too few": (
        {"step_sizes": CosineSteps(3), "diffusion_steps": MyLengths(9, 9)},
        r"sampler\.diffusion_steps \(MyLengths\): .* each of the 3 AR steps, got 2",
    ),
    "half a T": (
        {"step_sizes": CosineSteps(2), "diffusion_steps": MyLengths(9, 9.5)},
        r"\(MyLengths\): per_step must return a list of integers ≥ 1, got 9\.5 at AR step 1",
    ),
    "a negative scale": (
        {"guidance_schedule": MyGuidance(-1)},
        r"sampler\.guidance_schedule \(MyGuidance\): scale must be .* got -1 at AR step 0",
    ),
    "an infinite scale": ({"guidance_schedule": MyGuidance(math.inf)}, "got inf at AR step 0"),
    "a scale that is none": ({"guidance_schedule": MyGuidance(None)}, "got None at AR step 0"),
    "more chosen than there are": (
        {"selection": Greedy(0.1, 100)},
        r"sampler\.selection \(Greedy\): num_selected must return an integer between 0 and \d+, got \d+",
    ),
}


class NoSizes(StepSizes):
    def sizes(self, stage_sizes: Sequence[int]) -> Any:
        return None


class TensorSizes(StepSizes):
    def sizes(self, stage_sizes: Sequence[int]) -> Any:
        return torch.full((64,), 4)


class NoStages(RandomOrder):
    def stage_sizes(self, grid: tuple[int, int]) -> Any:
        return None


class NoLengths(DiffusionSteps):
    def per_step(self, steps: Sequence[StepSize]) -> Any:
        return None


class NoScale(GuidanceSchedule):
    """Defines nothing."""


class NoGuidance(GuidanceSchedule):
    def at(self, guidance_scale: float, progress: Progress) -> Any:
        return 2.0


class NoPermutation(RandomOrder):
    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Any:
        return None


class ListPermutation(RandomOrder):
    def permutation(self, grid: tuple[int, int], generator: torch.Generator) -> Any:
        return list(range(4))


PLANS |= {
    "no sizes": ({"step_sizes": NoSizes()}, r"\(NoSizes\): sizes must return a list of .* got None\."),
    "sizes as a tensor": ({"step_sizes": TensorSizes()}, r"sizes must .* got a torch\.int64 tensor of shape"),
    "no stages": ({"order": NoStages()}, r"\(NoStages\): stage_sizes must return a list .* got None\."),
    "no T": ({"diffusion_steps": NoLengths()}, r"\(NoLengths\): per_step must return .* got None\."),
    "no scale": ({"guidance_schedule": NoScale()}, r"\(NoScale\): the class must define the method scale"),
    "a number for a guidance": (
        {"guidance_schedule": NoGuidance()},
        r"\(NoGuidance\): at must return a Guidance, got 2\.0 at AR step 0",
    ),
    "a scale as a tensor": (
        {"guidance_schedule": MyGuidance(torch.tensor(3.0))},
        r"got a torch\.float32 tensor of shape \[\] at AR step 0",
    ),
    "no permutation": ({"order": NoPermutation()}, r"\(NoPermutation\): permutation must .* got None\."),
    "a list for a permutation": ({"order": ListPermutation()}, r"got \[0, 1, 2, 3\] \(list\)\."),
}


class NoArguments(RandomOrder):
    def permutation(self) -> Tensor:  # type: ignore[override]
        return torch.arange(256)


class TwoArguments(StaticRefresh):
    def wants(self, plan: Plan, step: ARStep) -> bool:  # type: ignore[override]
        return True


class NoWish(StaticRefresh):
    def wants(self, plan: Plan, step: ARStep, last: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("order", "halton", "an Order, got 'halton' (str)"),
        ("order", 3, "an Order, got 3"),
        ("order", RandomOrder, "an Order, got the class RandomOrder instead of an object"),
        ("step_sizes", 4, "a StepSizes, got 4"),
        ("solver", "ddim", "a Solver (it must have sample and visits_every_timestep), got 'ddim' (str)"),
        ("guidance_schedule", None, "a GuidanceSchedule, got None"),
        ("diffusion_steps", [1], "a DiffusionSteps, got [1] (list)"),
        ("selection", CosineSteps(), "a TokenSelection, got CosineSteps(num_iter=64) (CosineSteps)"),
        ("order", NoArguments(), "permutation must take (grid, generator), but it takes ()"),
    ],
)
def test_parts_of_a_sampler_have_their_class(argument: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"sampler\.{argument} .*{re.escape(kind)}"):
        Sampler(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("refresh", 3, "must be a Refresh, got 3"),
        ("token", "all", "must be a TokenCache, got 'all' (str)"),
        ("condition", True, "must be a ConditionCache, got True"),
        ("head", FixedRefresh(), "must be a HeadCache, got FixedRefresh("),
        ("refresh", TwoArguments(), "wants must take (plan, step, last), but it takes (plan, step)"),
    ],
)
def test_parts_of_a_cache_have_their_class(argument: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"cache\.{argument} .*{re.escape(message)}"):
        LazyMAR(**{"refresh": FixedRefresh(), argument: value})


def test_a_refresh_says_true_or_false_before_anything_is_sampled() -> None:
    sampler = Sampler(step_sizes=CosineSteps(4), guidance_scale=2.0)
    cache = LazyMAR(NoWish(), condition=ConditionCache())
    with pytest.raises(
        ConfigError, match=r"\(NoWish\): wants must return True or False, got None at AR step 1"
    ):
        cache.check(CONFIG, sampler.plan(CONFIG.grid), sampler.solver)


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_of_wrong_parts_is_refused(case: str) -> None:
    parts, message = PLANS[case]
    with pytest.raises(ConfigError, match=message):
        Sampler(**parts).plan(GRID)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1}, r"sampler\.guidance_scale must be a finite number ≥ 0 \(1 .* got -1\."),
        ({"guidance_scale": math.nan}, r"guidance_scale must be .* got nan"),
        ({"guidance_scale": "abc"}, r"guidance_scale must be .* got abc"),
        ({"temperature": math.inf}, r"sampler\.temperature must be a finite number ≥ 0, got inf"),
        ({"temperature": "model"}, r"temperature must be .* got model"),
    ],
)
def test_settings_are_finite(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampler(**settings)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (torch.zeros(256, dtype=torch.int64), r"\(MyOrder\): permutation must .* from 0 to 255 exactly once"),
        (torch.arange(1, 257), "must contain each position from 0 to 255"),
        (
            torch.arange(255),
            r"must return an int64 tensor of shape \[256\], got a torch\.int64 tensor of shape \[255\]",
        ),
        (torch.arange(256).float(), r"got a torch\.float32 tensor"),
        (torch.arange(256).view(16, 16), r"of shape \[16, 16\]"),
    ],
)
def test_an_order_is_a_permutation(order: Tensor, message: str) -> None:
    sampler = Sampler(order=MyOrder(order), diffusion_steps=ConstantDiffusionSteps(2))
    with pytest.raises(ConfigError, match=message):
        sampler.draw(sampler.plan(GRID), 0, [0], token_dim=1)


class AllPositions(CachePolicy):
    """Returns z of the whole grid."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        tokens, known = state.known(step)
        return state.model(state.condition_of(step), tokens, known, state.order)


class NoVectors(CachePolicy):
    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Any:
        return None


class OneBranch(CachePolicy):
    """Forgets the unconditional branch."""

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        return super().conditioning_vectors(state, step)[: state.batch_size]


class FlatScores(RandomSelection):
    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        return random_scores[0]


class WholeChain(DDPM):
    def sample(self, denoise: Any, noise: Tensor, schedule: Any, temperature: float) -> Tensor:
        return noise


def _decode(cache: CachePolicy, **parts: Any) -> None:
    model = MAR(CONFIG).eval()
    sampler = Sampler(
        step_sizes=CosineSteps(4), diffusion_steps=ConstantDiffusionSteps(2), guidance_scale=2.0, **parts
    )
    plan = sampler.plan(CONFIG.grid)
    noise = sampler.draw(plan, 0, [0, 1], CONFIG.token_dim)
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    decode(engine, model.condition(torch.tensor([0, 1])), noise)


def test_what_the_decode_loop_gets_has_the_shape_that_it_needs() -> None:
    # The first of four steps decodes two of sixteen tokens; two images, two branches, width 8.
    with pytest.raises(ConfigError, match=r"cache \(AllPositions\): .* shape \[4, 2, 8\], got a .* \[4, 16"):
        _decode(AllPositions())
    with pytest.raises(
        ConfigError, match=r"cache \(NoVectors\): conditioning_vectors must .* got None at AR"
    ):
        _decode(NoVectors())
    with pytest.raises(
        ConfigError, match=r"cache \(OneBranch\): .* shape \[4, 2, 8\], got a .* \[2, 2, 8\] at AR step 0"
    ):
        _decode(OneBranch())
    with pytest.raises(
        ConfigError, match=r"sampler\.selection \(FlatScores\): scores must return a tensor of shape \[2, "
    ):
        _decode(NoCache(), selection=FlatScores(0.5, 2))
    with pytest.raises(
        ConfigError, match=r"sampler\.solver \(WholeChain\): sample must return a tensor of shape \[4, "
    ):
        _decode(NoCache(), solver=WholeChain())
