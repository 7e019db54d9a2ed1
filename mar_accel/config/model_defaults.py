"""Checks the defaults of a model, ``model.sampling``, which samplers and caches refer to."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from mar_accel.config.check import model_defaults_below, shown, unknown_key
from mar_accel.config.members import read_members
from mar_accel.config.parts_by_name import GROUPS_WITH_PARTS
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError


def check_model_defaults(settings: Settings) -> None:
    """Refuse a default of the model that no model has and that neither sampler nor cache uses."""
    sampling = [member.get("sampling", {}) for member in read_members("model").values()]
    shipped = {str(name) for defaults in sampling for name in defaults}
    nodes = {str(name) for defaults in sampling for name in defaults if isinstance(defaults[name], dict)}
    words: dict[str, set[str]] = {}
    for defaults in sampling:
        for name, value in defaults.items():
            if isinstance(value, str) and value != "auto":
                words.setdefault(str(name), set()).add(value)
    known = set(shipped)
    for group in GROUPS_WITH_PARTS:
        known |= {default for _, default, _, _ in model_defaults_below(group, getattr(settings, group))}
    for name, value in settings.model.sampling.items():
        key = f"model.sampling.{name}"
        if known and name not in known:
            raise ConfigError(unknown_key(key, sorted(known)))
        # Parts check the values that they use, and those of one's own parts may be anything.
        if name in words:
            _check_word(key, value, words[name])
        elif name in shipped:
            _check_numbers(key, value, name in nodes)


def _check_word(key: str, value: Any, words: Set[str]) -> None:
    """Refuse what is not one of the words that models have for a default."""
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{key} must be {' or '.join(sorted(words))}, got {shown(value)}.")


def _check_numbers(key: str, value: Any, may_be_node: bool) -> None:
    """Refuse what is not a finite number ≥ 0, auto or null; of a node, in each of its keys."""
    if may_be_node and isinstance(value, dict):
        for name, item in value.items():
            _check_numbers(f"{key}.{name}", item, may_be_node)
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value not in (None, "auto") and not (is_number and 0 <= value < math.inf):
        raise ConfigError(f"{key} must be a finite number ≥ 0, auto or null, got {shown(value)}.")
