"""Packages that are installed with an extra."""

from __future__ import annotations

from typing import Any

from mar_accel.errors import ConfigError


def import_transformers(needed_by: str) -> Any:
    """The package transformers, which the extra ``text`` installs.

    Args:
        needed_by: what needs it, as "model=scenes"; the message begins with it.

    Raises:
        ConfigError: it is not installed.

    Example:
        >>> import_transformers("features=clip").T5Config
        <class 'transformers.models.t5.configuration_t5.T5Config'>
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"{needed_by} needs transformers; run pip install -e '.[text]' in the checkout."
        ) from error
    return transformers
