"""Every config that is shipped composes, and its values have the types that the code expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from mar_accel.config.check import check_value
from mar_accel.config.compose import compose_config, conf_dir
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_cache, build_part, build_sampler
from mar_accel.training.build import trained_architecture

CONF = conf_dir()
# "base" is a part of the others.
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "base")
MEMBERS = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent != CONF)
# Values that a config leaves to the user.
REQUIRED = {
    "cache/refresh/listed": ["cache.refresh.steps=[0,5]"],
    # A text model has no classes, which the other datasets ask for.
    "model/scenes": ["dataset=scenes"],
}


def _default_groups(path: Path) -> list[str]:
    """Groups in a config's defaults list, as it names them."""
    entries = (yaml.safe_load(path.read_text()) or {}).get("defaults", [])
    names = [next(iter(entry)) for entry in entries if isinstance(entry, dict)]
    return [name.removeprefix("override ").removeprefix("optional ").lstrip("/") for name in names]


def _overrides(group: str, member: str) -> tuple[str, list[str]]:
    """A primary config, and overrides of it, that take in a member of a group."""
    *above, part = group.split("/")
    if above:
        parent = "/".join(above)
        for path in sorted((CONF / parent).glob("*.yaml")):
            if part in _default_groups(path):
                return "generate", [f"{parent}={path.stem}", f"{group}={member}"]
        return "generate", [f"+{group}@{'.'.join([*above, part])}={member}"]
    for name in ["generate", *PRIMARY]:
        if group in _default_groups(CONF / f"{name}.yaml"):
            return name, [f"{group}={member}"]
    return "generate", [f"+{group}={member}"]


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configs_compose(name: str) -> None:
    config = compose_config(name, REQUIRED.get(name, []))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=name != "convert")
    assert config.command == name and config.output_dir.startswith(f"outputs/{name}/")


@pytest.mark.parametrize("path", MEMBERS, ids=str)
def test_members_of_all_groups_compose(path: Path) -> None:
    group, member = str(path.parent), path.stem
    primary, overrides = _overrides(group, member)
    config = compose_config(primary, [*overrides, *REQUIRED.get(f"{group}/{member}", [])])
    OmegaConf.to_container(config, resolve=True)
    node: Any = OmegaConf.select(config, group.replace("/", "."))
    if group == "experiment":
        assert build_sampler(config).plan(build_architecture(config.model).grid).steps
        assert build_cache(config) is not None
    elif group == "sampler":
        # Some samplers are made for one grid: that of every model here.
        assert build_sampler(config).plan(build_architecture(config.model).grid).steps
    elif group == "cache":
        build_cache(config).check(
            build_architecture(config.model),
            build_sampler(config).plan((16, 16)),
            build_sampler(config).solver,
        )
    elif group == "model":
        assert trained_architecture(config.model).seq_len == 256
    elif group.startswith(("sampler/", "cache/")):
        assert build_part(node) is not None


PARTS = ["sampler/order", "sampler/solver", "sampler/guidance_schedule", "cache/head", "cache/token"]


@pytest.mark.parametrize("group", PARTS)
def test_parts_are_chosen_by_name_as_by_group(group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        by_group = compose_config("generate", ["cache=lazymar", f"{group}={path.stem}"])
        by_name = compose_config("generate", ["cache=lazymar", f"{group.replace('/', '.')}={path.stem}"])
        assert (by_group.sampler, by_group.cache) == (by_name.sampler, by_name.cache)


def test_a_part_that_is_left_out_is_put_in_with_its_keys() -> None:
    config = compose_config("generate", ["cache=token", "cache.head=late", "cache.head.period=5"])
    assert (config.cache.head.period, config.cache.head.refresh_below) == (5, 0.08)
    assert config.cache.condition is None


def test_the_head_cache_suits_the_model() -> None:
    """The published models have the published constants; the embedded one shows what they leave."""

    def refreshed_below(*overrides: str) -> float:
        config = compose_config("generate", ["cache=lazymar", *overrides])
        return float(config.cache.head.refresh_below)

    for size in ("base", "large", "huge"):
        assert refreshed_below(f"model=mar_{size}", "model.weights=random") == 0
    assert refreshed_below() == refreshed_below("model=digits") == 0.08
    assert refreshed_below("cache.head.refresh_below=0") == 0
    assert refreshed_below("~model.head_refresh_below") == 0  # a model that does not say


def test_values_left_to_the_user_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"cache\.refresh\.steps has no value of its own; give a list"):
        compose_config("generate", ["cache=lazymar", "cache/refresh=listed"])


def test_default_run_folders_differ_between_commands() -> None:
    folders = {compose_config(name).output_dir.split("/")[1] for name in ("generate", "train")}
    assert folders == {"generate", "train"}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("abc", int, "a whole number"),
        (True, int, "a whole number"),
        (1.5, int | None, "a whole number or null"),
        ("x", int | float, "a number"),
        ([1, "x"], list[int], "a list of whole numbers"),
        (None, str, "a text"),
    ],
)
def test_wrong_types_are_refused(value: Any, hint: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^a.key=.* has the wrong type; give {expected}.$"):
        check_value("a.key", value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, float), (None, int | None), ([1, 2], list[int]), ((1, 2), tuple[int, int]), ("a", int | str)],
)
def test_right_types_pass(value: Any, hint: Any) -> None:
    check_value("a.key", value, hint)
