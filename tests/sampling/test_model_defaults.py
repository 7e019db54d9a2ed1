"""Objects from Python are those of the configs, and take from the model what they leave to it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hydra.utils import get_class

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.refresh import FixedRefresh
from mar_accel.caching.token import TokenCache
from mar_accel.config.compose import compose_settings
from mar_accel.config.hydra_context import conf_dir
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_sampler
from mar_accel.sampling.guidance import LinearGuidance
from mar_accel.sampling.model_defaults import MODEL, ModelDefaults
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.step_sizes import CosineSteps

CONF = conf_dir()
PARTS = sorted(path for group in ("sampler", "cache") for path in (CONF / group).glob("*/*.yaml"))
# Members of a class that is the main one of another member.
VARIANTS = {
    "step_sizes/gtr_19",
    "step_sizes/gtr_16",
    "selection/low",
    "head/late",
    "order/gtr_four_stages",
    "step_sizes/gtr_lightgen",
    "guidance_schedule/emigm",
    "guidance_schedule/emigm_long",
    "guidance_schedule/first_half",
}
# The preset of a part whose values depend on the preset; the others are looked at in mar and lazymar.
PRESETS = {"step_sizes/gtr": "gtr", "diffusion_steps/gtr": "gtr", "diffusion_steps/disa": "disa"}


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


MAIN = [path for path in PARTS if _name(path) not in VARIANTS]


def _plain(value: Any) -> Any:
    """Lists for tuples, so that they can be compared."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("path", MAIN, ids=_name)
def test_defaults_of_a_class_are_those_of_its_config(path: Path) -> None:
    group, part = path.parent.parent.name, path.parent.name
    overrides = [f"sampler={PRESETS.get(_name(path), 'mar')}", "cache=lazymar", f"{group}/{part}={path.stem}"]
    if _name(path) == "refresh/listed":
        overrides.append("cache.refresh.steps=[0]")
    node = getattr(compose_settings("generate", overrides), group)[part]
    configured = dict(node)
    parameters = inspect.signature(get_class(configured.pop("_target_"))).parameters
    if _name(path) == "refresh/listed":  # a list that has no default
        assert parameters["steps"].default is inspect.Parameter.empty
        return
    defaults = {key: _plain(parameters[key].default) for key in configured}
    assert defaults == _plain_values(configured)
    for key, parameter in parameters.items():
        assert parameter.default is not inspect.Parameter.empty, key


# Arguments that are shown as another part's, and one that is a method's name.
SHOWN_OTHERWISE = {"ratio_steps", "ratio_by", "split"}


@pytest.mark.parametrize("path", MAIN, ids=_name)
def test_a_part_shows_all_its_settings(path: Path) -> None:
    member = yaml.safe_load(path.read_text())
    made = get_class(member["_target_"])(**({"steps": [0]} if _name(path) == "refresh/listed" else {}))
    assert repr(made).startswith(f"{type(made).__name__}(")
    for name in set(inspect.signature(type(made)).parameters) - SHOWN_OTHERWISE:
        assert f"{name}=" in repr(made)


def _plain_values(values: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _plain(value) for key, value in values.items()}


def test_every_class_has_one_main_member() -> None:
    targets = [yaml.safe_load(path.read_text())["_target_"] for path in MAIN]
    assert len(targets) == len(set(targets)) and len(PARTS) == len(targets) + len(VARIANTS)


def _settings(value: Any) -> Any:
    """An object as its class and the settings of its parts."""
    if type(value).__module__.startswith("mar_accel."):
        kept = {key: _settings(item) for key, item in vars(value).items() if key not in ("store", "residual")}
        return type(value), kept
    return [_settings(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("model", ["digits", "mar_base"])
def test_objects_from_python_are_those_of_the_presets(model: str) -> None:
    config = compose_settings("generate", [f"model={model}", "model.weights=random", "cache=lazymar"])
    defaults = config.model.sampling
    cache = LazyMAR(FixedRefresh(), TokenCache(), ConditionCache(), HeadCache()).for_model(defaults)
    assert _settings(cache) == _settings(build_cache(config))
    built = build_sampler(config)
    assert _settings(Sampler().for_model(defaults)) == _settings(built)
    assert built.guidance_scale == defaults["guidance_scale"]
    assert built.max_timestep == defaults.get("max_timestep", "auto")


def test_a_value_that_is_given_wins_over_the_models() -> None:
    sampler = Sampler(guidance_schedule=LinearGuidance(), guidance_scale=2.0, max_timestep=None)
    assert sampler.for_model({"guidance_scale": 9.0, "max_timestep": 950}) is sampler
    head = HeadCache(refresh_below=0.5)
    policy = LazyMAR(FixedRefresh(), head=head)
    assert policy.for_model({"head_refresh_below": 0.1}) is policy
    assert NoCache().for_model({"guidance_scale": 3.0}).__class__ is NoCache


def test_models_that_say_nothing_get_the_fallback() -> None:
    sampler = Sampler()
    resolved = sampler.for_model({})
    assert (resolved.guidance_scale, resolved.max_timestep) == (1.0, "auto")
    assert sampler.guidance_scale == MODEL  # the object itself is left as it is
    assert sampler.plan((16, 16)) == resolved.plan((16, 16)) and not sampler.plan((16, 16)).guided
    assert HeadCache().for_model({}).refresh_below == 0.0
    assert not HeadCache().refreshes(1, 100) and HeadCache(refresh_below=0.02).refreshes(1, 100)


def test_a_models_value_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.guidance_scale must be .* got -2"):
        Sampler().for_model({"guidance_scale": -2})
    with pytest.raises(ConfigError, match=r"cache\.head\.refresh_below must be .* got 7"):
        LazyMAR(FixedRefresh(), head=HeadCache()).for_model({"head_refresh_below": 7})


class WarmSteps(CosineSteps, ModelDefaults):
    """A part of one's own whose value the model decides: nothing else has to know of it."""

    model_defaults: ClassVar = {"num_iter": ("best_num_iter", 8)}

    def __init__(self) -> None:
        self.num_iter = MODEL  # type: ignore[assignment]


def test_a_new_default_of_the_model_is_read_by_the_part_alone() -> None:
    sampler = Sampler(step_sizes=WarmSteps())
    assert len(sampler.for_model({"best_num_iter": 5}).plan((16, 16)).steps) == 5
    assert len(sampler.for_model({}).plan((16, 16)).steps) == 8

    class Policy(CachePolicy):
        model_defaults: ClassVar = {"share": ("share", 0.5)}
        share: float | str = MODEL

    policy = Policy()
    assert policy.for_model({"share": 0.25}).share == 0.25 and policy.share == MODEL
