"""The parts of an override of Hydra: ``+cache.token.ratios=0.1`` has a group, a key and a value."""

from __future__ import annotations

import json
import re
from typing import Any

from omegaconf import OmegaConf

from mar_accel.utils.json_files import with_whole_numbers

_SIGNS = "+~"


def key_of(override: str) -> str:
    """The key of an override, without Hydra's signs.

    Example:
        >>> key_of("+cache.token=null")
        'cache.token'
    """
    return override.partition("=")[0].lstrip(_SIGNS)


def value_of(override: str) -> str:
    """The value of an override as text; empty if it has none.

    Example:
        >>> value_of("sampler.order=gtr")
        'gtr'
    """
    return override.partition("=")[2]


def group_of(override: str) -> str:
    """The outermost group or node that an override changes.

    Example:
        >>> [group_of(own) for own in ("sampler=gtr", "sampler/order=gtr", "+sampler.order.num_stages=4")]
        ['sampler', 'sampler', 'sampler']
    """
    return re.split(r"[./]", key_of(override))[0]


def split_outside(text: str, separator: str) -> list[str]:
    """Split a text at a sign that is neither in brackets nor in quotes.

    Example:
        >>> split_outside("a=[1, 2] b='x y' c=3", " ")
        ['a=[1, 2]', "b='x y'", 'c=3']
    """
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == separator and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def same_value(value: Any, text: str) -> bool:
    """Whether a value of a config is what a text says; numbers are equal as numbers, also those in lists.

    Example:
        >>> same_value(3.0, "3"), same_value([[0, 1.0]], "[[0,1]]"), same_value(None, "null")
        (True, True, True)
    """
    own = "null" if value is None else str(value)
    return own.lower() == text.lower() or _comparable(value) == _comparable(text)


def _comparable(value: Any) -> str:
    """A value as a text that is the same for equal values."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, str):
        try:
            # OmegaConf reads values as Hydra does: 1e-3 is a number.
            value = OmegaConf.to_container(OmegaConf.create(f"v: {value}"))["v"]  # type: ignore[index,call-overload]
        except Exception:  # a text that is no YAML stands for itself
            return value
    return json.dumps(with_whole_numbers(value), sort_keys=True, default=str)
