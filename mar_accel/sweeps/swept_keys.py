"""Which keys differ between runs, found by comparing their configs.

A group such as ``sampler`` has dozens of keys that differ between two members. So each node is named by the
member of its group that it is most similar to, and only keys that differ from that member count as well.
Parts, such as ``sampler.order``, are named in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.compose import compose_node
from mar_accel.config.members import default_members, member_names, read_members
from mar_accel.config.overrides import key_of, value_of
from mar_accel.config.parts_by_name import GROUPS_WITH_PARTS
from mar_accel.runs.identity import NEVER_COUNTS
from mar_accel.sweeps.run_folders import ROWS, CollectedRun

# Groups whose members are named. The model comes first, because samplers refer to its values.
GROUPS = ("model", "dataset", "sampler", "cache", "features", "reference")
SEED = "seed"
BASELINE = "evaluate.baseline"
# What follows from other keys or tells nothing about a result.
_IGNORED = (
    *NEVER_COUNTS,
    "command",
    "callbacks",
    "evaluate.timing_rounds",
    "evaluate.profile",
    "sweep",
)

Values = dict[str, Any]
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def swept_values(runs: Sequence[CollectedRun]) -> list[Values]:
    """The values of the keys that differ between runs, for each run; the seed is never among them.

    A key that the config of a run does not have is left out there.

    Example:
        >>> swept_values(runs)
        [{'cache': 'none'}, {'cache': 'lazymar', 'cache.token.ratios': 0.1}]
    """
    flat = [_counting(run) for run in runs]
    named: list[Values] = [{} for _ in runs]
    for group in GROUPS:
        if len({value_text(run.config.get(group)) for run in runs}) < 2:
            continue
        members = [member_of(group, run) for run in runs]
        if None in members:
            continue
        _name_group(group, [str(member) for member in members], runs, flat, named)
    keys = dict.fromkeys(key for values in flat for key in values)
    differing = [key for key in keys if len({value_text(values.get(key, ...)) for values in flat}) > 1]
    for values, own in zip(flat, named, strict=True):
        own |= {key: values[key] for key in differing if key in values}
    return named


def _name_group(
    group: str,
    members: Sequence[str],
    runs: Sequence[CollectedRun],
    flat: Sequence[Values],
    named: Sequence[Values],
) -> None:
    """Name the node of a group by its member, and keep only keys that a run has changed in it."""
    changed = set()
    for member, run, values in zip(members, runs, flat, strict=True):
        changed |= _differing(_below(group, values), _member_values(group, member, _model_of(run)))
    for values in flat:
        # An empty group, such as features=none, has the name of its member alone.
        values.pop(group, None)
        for key in _below(group, values):
            if key not in changed:
                del values[key]
    if len(set(members)) > 1:
        for member, own in zip(members, named, strict=True):
            own[group] = member


def _counting(run: CollectedRun) -> Values:
    """The dotted keys of a config that say what a result is, and the content of weights and classes."""
    values = _normal(run.config)
    # Rows of a table name their first row as the baseline, and the first row has none: that is no setting.
    baseline, beside = values.get(BASELINE), run.folder.parent
    in_its_table = beside.name == ROWS and (beside / Path(str(baseline)).name).is_dir()
    if in_its_table or baseline in ("none", "generate"):
        values.pop(BASELINE, None)
    content = (run.record.get("identity") or {}).get("content") or {}
    for name in ("weights", "sources"):
        values |= {f"{name}.{key}": value for key, value in flat_items(content.get(name) or {})}
    return values


def _normal(config: Mapping[str, Any]) -> Values:
    """The dotted keys that count; a part is the name of its member, and the keys that this does not set."""
    flat: Values = {}
    for group, node in config.items():
        parts = {}
        if group in GROUPS_WITH_PARTS and isinstance(node, Mapping):
            parts = {key: part for key, part in node.items() if isinstance(part, Mapping)}
            node = {key: value for key, value in node.items() if key not in parts}
        flat |= dict(flat_items({group: node}))
        for name, part in parts.items():
            flat |= _normal_part(group, name, part, flat)
    return {key: value for key, value in flat.items() if not _is_ignored(key)}


def _normal_part(group: str, name: str, part: Mapping[str, Any], flat: Values) -> Values:
    """A part by the name of a member of its class, and the keys with other values than this member's."""
    target = part.get("_target_")
    members = {m: raw for m, raw in _raw_members(f"{group}/{name}").items() if raw.get("_target_") == target}

    def changed(member: str) -> Values:
        raw = {key: _resolved(value, flat) for key, value in members[member].items()}
        return {
            key: value for key, value in part.items() if value_text(raw.get(key, ...)) != value_text(value)
        }

    if target is None or not members:
        return dict(flat_items({f"{group}.{name}": part}))
    member = min(members, key=lambda m: len(changed(m)))
    own = {f"{group}.{name}.{key}": value for key, value in changed(member).items()}
    return {f"{group}.{name}": member, **own}


@lru_cache(maxsize=64)
def _raw_members(group: str) -> dict[str, Any]:
    """The values of all members of a group as their files have them, with interpolations."""
    return {name: OmegaConf.to_container(member) for name, member in read_members(group).items()}


def _resolved(value: Any, flat: Values) -> Any:
    """The value of another key that a member refers to: ``${sampler.num_iter}``."""
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return flat.get(reference[1], value) if reference else value


def _is_ignored(key: str) -> bool:
    return key == SEED or any(key == other or key.startswith(f"{other}.") for other in _IGNORED)


def flat_items(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; a list is one value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat_items(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _below(group: str, values: Values) -> Values:
    return {key: value for key, value in values.items() if key.startswith(f"{group}.")}


def _differing(ours: Values, theirs: Values) -> set[str]:
    # Settings complete a group by defaults, so a key that is not there is as good as null.
    return {key for key in {*ours, *theirs} if value_text(ours.get(key)) != value_text(theirs.get(key))}


def value_in(run: CollectedRun, key: str) -> Any:
    """The value of a key of a run's config, where groups and parts have the names of their members.

    Example:
        >>> value_in(run, "sampler"), value_in(run, "sampler.order"), value_in(run, "sampler.num_iter")
        ('gtr', 'gtr', 32)

    Returns:
        The value; None if the run does not have the key.
    """
    if key in GROUPS:
        return member_of(key, run)
    flat = dict(flat_items(run.config))
    return _normal(run.config).get(key, flat.get(key))


def member_of(group: str, run: CollectedRun) -> str | None:
    """The member of a group that a run has chosen, else the nearest one; None if the group has no members."""
    return _chosen_member(group, run) or _nearest_member(group, run)


def _chosen_member(group: str, run: CollectedRun) -> str | None:
    """The member on the run's command line, or the default one; None if the command line does not say.

    So ``sampler.num_iter=32`` stays a setting of ``mar``, also where another member has the same values.

    A member that is not there any more, or that lies in a folder of one's own, counts as not said. So does a
    default that depends on another group.
    """
    keys = [key_of(override) for override in run.overrides]
    if not keys or any(key.startswith("table.") or key in ("experiment", "debug") for key in keys):
        return None
    written = [value_of(o) for o in run.overrides if key_of(o) == group]
    member = written[-1] if written else default_members().get(group)
    return member if member in member_names(group) else None


def _nearest_member(group: str, run: CollectedRun) -> str | None:
    """The member of a group that a run's node differs least from; None if the group has no members."""
    ours = _normal({group: run.config.get(group) or {}})
    written = [value_of(o) for o in run.overrides if key_of(o) == group]

    nearest, least = None, None
    # Ties go to the member that was written, then to the shorter name: mar before disa.
    candidates = {*_bases(group, _model_of(run)), *(name for name in written if name in member_names(group))}
    for member in sorted(candidates, key=lambda name: (name not in written, len(name), name)):
        distance = len(_differing(ours, _member_values(group, member, _model_of(run))))
        if least is None or distance < least:
            nearest, least = member, distance
        if distance == 0:
            break
    return nearest


@lru_cache(maxsize=64)
def _bases(group: str, model: str) -> tuple[str, ...]:
    """The members of a group without those that only have other numbers than a shorter name: no ``mar_32``.

    Nothing tells which of them was chosen, and a sweep of ``sampler.num_iter`` must keep one name.
    """
    bases: list[str] = []
    for member in sorted(member_names(group), key=lambda name: (len(name), name)):
        ours = _member_values(group, member, model)
        theirs = [_member_values(group, name, model) for name in bases]
        if group not in GROUPS_WITH_PARTS or not any(_only_numbers_differ(ours, base) for base in theirs):
            bases.append(member)
    return tuple(bases)


def _only_numbers_differ(ours: Values, theirs: Values) -> bool:
    values = [values.get(key) for key in _differing(ours, theirs) for values in (ours, theirs)]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _model_of(run: CollectedRun) -> str:
    """The values of the run's model, which the members of other groups refer to."""
    return json.dumps(run.config.get("model") or {}, sort_keys=True)


@lru_cache(maxsize=256)
def _member_values(group: str, member: str, model: str) -> Values:
    """Dotted keys of a member of a group, for a model with these values."""
    node = compose_node(group, member, None if group == "model" else json.loads(model))
    return _normal({group: node})


def value_text(value: Any) -> str:
    """A value as text, equal for equal numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "(none)" if value is ... else json.dumps(value, sort_keys=True, default=str)


def shown_value(value: Any) -> str:
    """A value of a config as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return (
        OmegaConf.to_yaml({"v": value}).partition(": ")[2].strip() if isinstance(value, float) else str(value)
    )
