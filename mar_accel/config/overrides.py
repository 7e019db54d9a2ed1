"""The parts of an override of Hydra: ``+cache.token.ratios=0.1`` has a group, a key and a value."""

from __future__ import annotations

import re

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
