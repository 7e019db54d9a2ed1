"""Every config that is shipped composes, and its values have the types that the code expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mar_accel.caching.lazymar import LazyMAR
from mar_accel.config.check import check_arguments, check_node, check_settings
from mar_accel.config.compose import compose_settings
from mar_accel.config.hydra_context import conf_dir
from mar_accel.config.settings import (
    COMMAND_NODES,
    BenchmarkSettings,
    EvaluateSettings,
    RedundancySettings,
    Settings,
    TableSettings,
    TrainerSettings,
    TrainingSettings,
)
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_cache, build_node, build_sampler
from mar_accel.sampling.orders import Order

CONF = conf_dir()
# "base" is a part of the others.
PRIMARY = sorted(path.stem for path in CONF.glob("*.yaml") if not path.stem.startswith("base"))
MEMBERS = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parent != CONF)
GENEVAL = Path(__file__).parents[1] / "data" / "geneval.jsonl"
SIZES = ("base", "large", "huge")
# Values that a config leaves to the user.
REQUIRED = {
    "cache/refresh/listed": ["cache.refresh.steps=[0,5]"],
    "dataset/folder": ["dataset.path=my_images"],
    "reference/folder": ["dataset=folder", "dataset.path=my_images"],
    "dataset/inpaint": ["dataset.images=my_images", "dataset.mask=my_mask.png"],
    # Texts need a model that takes them, and such a model needs texts.
    "dataset/prompts": ["model=scenes", "dataset.prompts=[a six]"],
    "dataset/geneval": ["model=scenes", f"dataset.path={GENEVAL}"],
    **{f"dataset/{name}": ["model=scenes"] for name in ("scenes", "scenes_eval")},
    "model/scenes": ["dataset=scenes"],
    **{f"model/lightgen_{size}": ["dataset=prompts", "dataset.prompts=[a six]"] for size in SIZES},
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
            # A member that exchanges the part may not fit the others; one that has it of its own does.
            if part in _default_groups(path) and f"override {part}:" not in path.read_text():
                return "generate", [f"{parent}={path.stem}", f"{group}={member}"]
        return "generate", [f"+{group}@{'.'.join([*above, part])}={member}"]
    return "generate", [f"{group}={member}"]


@pytest.mark.parametrize("name", PRIMARY)
def test_primary_configs_compose(name: str) -> None:
    settings = compose_settings(name)
    assert settings.command == name and settings.output_dir.startswith(f"outputs/{name}/")


OWN_NODES = [(command, key) for key, command in COMMAND_NODES.items() if key != "dtype"]
# What a command sets otherwise, or what only its YAML lists.
YAML_ALONE = {("redundancy", "trainer"): "batch_size"}


@pytest.mark.parametrize(("command", "key"), [*OWN_NODES, *((name, "trainer") for name in PRIMARY)])
def test_defaults_of_settings_are_those_of_the_configs(command: str, key: str) -> None:
    """A settings object that is made in Python is what the command line gives."""
    node = getattr(compose_settings(command), key)
    default = type(node)()
    own = YAML_ALONE.get((command, key))
    if own is not None:
        assert getattr(node, own) != getattr(default, own)
        node = replace(node, **{own: getattr(default, own)})
    assert node == default


def test_every_command_has_its_node_and_every_node_a_command() -> None:
    with_own = {command for command, _ in OWN_NODES} | {"convert"}
    assert with_own == set(PRIMARY)


def _node(settings: Settings, group: str) -> Any:
    """The node of a group such as sampler/order."""
    first, *below = group.split("/")
    node = getattr(settings, first, None)
    for part in below:
        node = node[part]
    return node


@pytest.mark.parametrize("path", MEMBERS, ids=str)
def test_members_of_all_groups_compose(path: Path) -> None:
    group, member = str(path.parent), path.stem
    primary, overrides = _overrides(group, member)
    settings = compose_settings(primary, [*overrides, *REQUIRED.get(f"{group}/{member}", [])])
    architecture = build_architecture(settings.model)
    if group == "experiment":
        assert build_sampler(settings).plan(architecture.grid).steps
        assert build_cache(settings) is not None
    elif group == "sampler":
        # Some samplers are made for one grid: that of every model here.
        assert build_sampler(settings).plan(architecture.grid).steps
    elif group == "cache":
        sampler = build_sampler(settings)
        build_cache(settings).check(architecture, sampler.plan((16, 16)), sampler.solver)
    elif group == "model":
        assert architecture.seq_len == (1024 if member.startswith("lightgen") else 256)
    elif group.startswith(("sampler/", "cache/")):
        assert build_node("part", _node(settings, group)) is not None


PARTS = ["sampler/order", "sampler/solver", "sampler/guidance_schedule", "cache/head", "cache/token"]


@pytest.mark.parametrize("group", PARTS)
def test_parts_are_chosen_by_name_as_by_group(group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        by_group = compose_settings("generate", ["cache=lazymar", f"{group}={path.stem}"])
        by_name = compose_settings("generate", ["cache=lazymar", f"{group.replace('/', '.')}={path.stem}"])
        assert (by_group.sampler, by_group.cache) == (by_name.sampler, by_name.cache)


def test_a_part_that_is_left_out_is_put_in_with_its_keys() -> None:
    cache = compose_settings("generate", ["cache=token", "cache.head=late", "cache.head.period=5"]).cache
    assert (cache["head"]["period"], cache["head"]["refresh_below"]) == (5, 0.08)
    assert cache["condition"] is None


def test_the_head_cache_suits_the_model() -> None:
    """The published models have the published constants; the embedded one shows what they leave."""

    def refreshed_below(*overrides: str) -> float:
        config = compose_settings("generate", ["cache=lazymar", *overrides])
        cache = build_cache(config)
        assert isinstance(cache, LazyMAR) and cache.head is not None
        return float(cache.head.refresh_below)

    for size in ("base", "large", "huge"):
        assert refreshed_below(f"model=mar_{size}", "model.weights=random") == 0
    assert refreshed_below() == refreshed_below("model=digits") == 0.08
    assert refreshed_below("cache.head.refresh_below=0") == 0
    assert refreshed_below("~model.sampling.head_refresh_below") == 0  # a model that does not say


def test_values_left_to_the_user_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"cache\.refresh\.steps has no default; give it a value"):
        compose_settings("generate", ["cache=lazymar", "cache/refresh=listed"])


def test_default_run_folders_differ_between_commands() -> None:
    folders = {compose_settings(name).output_dir.split("/")[1] for name in ("generate", "train")}
    assert folders == {"generate", "train"}


# -- settings are checked at the door ------------------------------------------------------------------------


def test_a_model_and_a_dataset_that_do_not_fit_are_a_config_error() -> None:
    with pytest.raises(
        ConfigError, match=r"^dataset=digits has classes, but model=scenes takes text; choose"
    ):
        compose_settings("generate", ["model=scenes"])


UNKNOWN_MODULE = "does not exist: there is no module nope; use an importable class."


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        # Types
        ("dataset.num_images=abc", "dataset.num_images must be an integer, got 'abc'."),
        ("dataset.num_images='3'", "dataset.num_images must be an integer, got '3'."),
        ("dataset.num_images=1.5", "dataset.num_images must be an integer, got 1.5."),
        ("dataset.num_images=true", "dataset.num_images must be an integer, got true."),
        ("dataset.num_images=null", "dataset.num_images must be an integer, got null."),
        ("trainer.batch_size=[1]", "trainer.batch_size must be an integer, got [1]."),
        ("model.ema=yes", "model.ema must be true or false, got 'yes'."),
        ("output_dir=null", "output_dir must be text, got null."),
        ("trainer.precision=[1]", "trainer.precision must be text or an integer, got [1]."),
        # Ranges
        ("dataset.num_images=0", "dataset.num_images must be ≥ 1, got 0."),
        ("seed=-1", "seed must be ≥ 0, got -1."),
        ("trainer.devices=0", "trainer.devices must be ≥ 1, got 0."),
        (
            "output_dir=''",
            "output_dir must name a separate folder, got ''; choose a folder for this run.",
        ),
        ("model.name=a/b", "model.name must be a plain name without slashes, got 'a/b'."),
        # Unions and lists
        ("dataset.labels=abc", "dataset.labels must be an integer or a list, got 'abc'."),
        ("dataset.labels=[1,x]", "dataset.labels[1] must be an integer, got 'x'."),
        ("trainer.devices=[0,x]", "trainer.devices[1] must be an integer, got 'x'."),
        ("dataset.labels=10", "dataset.labels must be classes of the model, 0 to 9, got 10."),
        # Arguments of parts
        ("sampler.guidance_scale=nan", "sampler.guidance_scale must be finite, got NaN."),
        ("sampler.guidance_scale=x", "sampler.guidance_scale must be a number or model, got 'x'."),
        ("sampler.order=3", "sampler.order must be a group of settings, got 3."),
        ("sampler._target_=3", "sampler._target_ must be an import path such as my_module.MyClass, got 3."),
        ("sampler.order._target_=nope.X", f"sampler.order._target_=nope.X {UNKNOWN_MODULE}"),
        # Keys that nothing reads
        (
            "+trainer.num_node=2",
            "trainer.num_node is not a key of the config; did you mean trainer.num_nodes?",
        ),
        ("+plan.foo=1", "plan.foo is not a key of the config; plan takes flops."),
    ],
)
def test_wrong_settings_are_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings("generate", [override])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "override",
    ["+dataset.nonsense=3", "+evaluate.foo=1", "+foo=1", "+sampler.order.foo=1", "+cache.foo=1"],
)
def test_keys_that_do_nothing_are_refused(override: str) -> None:
    key = override[1:].partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{re.escape(key)} is not a key of the config; "):
        compose_settings("generate", [override])


@pytest.mark.parametrize("key", ["max_epochs", "gradient_clip_val", "fast_dev_run"])
def test_keys_of_a_training_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.{key} only applies to training"):
        compose_settings("generate", [f"+trainer.{key}=1"])


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_without_a_command_line_are_refused(strategy: str) -> None:
    with pytest.raises(ConfigError, match=f"^trainer.strategy={strategy} starts processes without a command"):
        compose_settings("generate", [f"trainer.strategy={strategy}"])


def test_keys_of_lightnings_trainer_are_taken() -> None:
    overrides = ["trainer.num_nodes=2", "trainer.limit_predict_batches=0.5", "+trainer.deterministic=warn"]
    trainer = compose_settings("generate", overrides).trainer
    assert (trainer.num_nodes, trainer.limit_predict_batches) == (2, 0.5)
    assert trainer.lightning["deterministic"] == "warn" and "batch_size" not in trainer.lightning


@pytest.mark.parametrize("limit", ["0", "-1", "0.0", "1.5"])
def test_a_limit_is_a_number_of_batches_or_a_share(limit: str) -> None:
    with pytest.raises(ConfigError, match=rf"limit_predict_batches must be .* got {re.escape(limit)}\.$"):
        compose_settings("generate", [f"trainer.limit_predict_batches={limit}"])


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (EvaluateSettings, {"fidelity_images": "abc"}, "k.fidelity_images must be an integer, got 'abc'."),
        (EvaluateSettings, {"fidelity_image": 1}, "k.fidelity_image is not a key of the config; did you mean "
         "k.fidelity_images?"),
        (RedundancySettings, {"prune_block": "x"}, "k.prune_block must be an integer or auto, got 'x'."),
        (RedundancySettings, {"prune_block": -1}, "k.prune_block must be ≥ 0, got -1."),
        (RedundancySettings, {"head_every": 1.5}, "k.head_every must be an integer, got 1.5."),
        (TableSettings, {"only": ["a", 1]}, "k.only[1] must be text, got 1."),
        (BenchmarkSettings, {"variants": {"a": ["x", 3]}}, "k.variants.a[1] must be text, got 3."),
        (TrainingSettings, {"label_drop": float("nan")}, "k.label_drop must be finite, got NaN."),
        (TrainerSettings, {"devices": [1, -1]}, "k.devices[1] must be ≥ 0, got -1."),
    ],
)  # fmt: skip
def test_nodes_of_commands(cls: type, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(cls, values, "k")
    assert str(caught.value) == sentence


def test_right_values_pass() -> None:
    assert check_settings(RedundancySettings, {"prune_block": "auto", "head_every": None}).head_every is None
    assert check_settings(TrainerSettings, {"devices": [0, 1]}).devices == [0, 1]
    # A whole number is a number.
    assert check_settings(TrainingSettings, {"learning_rate": 1}).learning_rate == 1


# -- classes of one's own are checked as the package's -----------------------------------------------------


class Own:
    """A part of one's own."""

    def __init__(
        self,
        size: int,
        scale: float | None = None,
        sizes: Sequence[int] = (),
        kind: Literal["a", "b"] = "a",
        order: Order | None = None,
        anything: object = None,
    ):
        pass


class Loose:
    """Takes whatever it is given."""

    def __init__(self, size: int = 1, **more: Any):
        pass


class Unreadable:
    """Its annotations name nothing that exists."""

    def __init__(self, size: Nowhere = 1):  # type: ignore[name-defined]  # noqa: F821
        pass


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size": "x"}, "own.size must be an integer, got 'x'."),
        ({"size": None}, "own.size must be an integer, got null."),
        ({}, "own.size is not set; give it a value."),
        ({"size": "???"}, "own.size has no default; give it a value."),
        ({"size": 1, "sise": 2}, "own.sise is not a key of the config; did you mean own.size?"),
        ({"size": 1, "zz": 2}, "own.zz is not a key of the config; own takes size, scale, sizes, kind, "
         "order, anything."),
        ({"size": 1, "scale": "x"}, "own.scale must be a number, got 'x'."),
        ({"size": 1, "scale": float("inf")}, "own.scale must be finite, got Infinity."),
        ({"size": 1, "sizes": 3}, "own.sizes must be a list, got 3."),
        ({"size": 1, "sizes": [1, 2, "x"]}, "own.sizes[2] must be an integer, got 'x'."),
        ({"size": 1, "kind": "c"}, "own.kind must be a or b, got 'c'."),
        ({"size": 1, "order": "x"}, "own.order must be a group of settings, got 'x'."),
    ],
)  # fmt: skip
def test_arguments_of_a_class_of_ones_own(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments("own", arguments, Own)
    assert str(caught.value) == sentence


def test_arguments_that_fit_pass() -> None:
    nodes = {"order": {"_target_": "a.B"}, "anything": [1, {"x": None}]}
    check_arguments("own", {"size": 1, "scale": 2, "sizes": [3], "kind": "b", **nodes}, Own)
    check_arguments("own", {"scale": None}, Own, given=("size",))  # a command adds the size itself
    check_arguments("own", {"size": 1, "whatever": "x"}, Loose)
    check_arguments("own", {"size": "x"}, Unreadable)  # it checks for itself


def test_nodes_are_checked_with_those_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_parts.py").write_text(
        "class Outer:\n    def __init__(self, inner=None): pass\n"
        "class Inner:\n    def __init__(self, size: int = 1): pass\n"
    )
    (tmp_path / "checked_broken.py").write_text("import does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    check_node(
        "own", {"_target_": "checked_parts.Outer", "inner": {"_target_": "checked_parts.Inner", "size": 2}}
    )
    for node, sentence in (
        ({"_target_": "checked_parts.Inner", "size": "x"}, r"own\.inner\.size must be an integer, got 'x'\."),
        (
            {"_target_": "checked_parts.Iner"},
            r"own\.inner\._target_=checked_parts\.Iner does not exist: checked_parts has no ",
        ),
        # The cause of an import that fails is told, with its place.
        (
            {"_target_": "checked_broken.X"},
            r"cannot be imported: .*No module named 'does_not_exist' .*broken\.py, line 1",
        ),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_node("own", {"_target_": "checked_parts.Outer", "inner": node})


@pytest.mark.parametrize("command", PRIMARY)
def test_settings_have_the_defaults_of_the_yaml_files(command: str) -> None:
    """The values stand twice, for the command line and for Python."""
    composed = compose_settings(command)
    own = {node: getattr(composed, node) for node, owner in COMMAND_NODES.items() if owner == command}
    groups = {key: getattr(composed, key) for key in ("command", "model", "dataset", "sampler", "cache")}
    default = Settings(**groups, output_dir="run")
    assert own == {node: getattr(default, node) for node in own} and own
    assert composed.seed == default.seed
    # redundancy keeps features of all AR steps, so it samples fewer images at a time.
    batch_size = 4 if command == "redundancy" else default.trainer.batch_size
    assert composed.trainer == replace(default.trainer, batch_size=batch_size)
