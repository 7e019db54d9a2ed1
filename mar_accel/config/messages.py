"""One sentence for each error that the user can fix, whether from this package, Hydra or OmegaConf."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.check import nearest
from mar_accel.config.settings import TRAINING_ONLY, foreign_key, training_only
from mar_accel.errors import MarAccelError

_KEY = re.compile(r"(?:Could not (?:override|append|delete)|Key) '([^']+)'")
_CHOICE = re.compile(r"[a-z_]+(/[a-z_]+)*=\w+")
_THERE = re.compile(r"An item is already at '([^']+)'")


def sentence_for(error: BaseException, config_name: str, composing: bool = False) -> str | None:
    """The message for the user about an error; None if the error is a bug of the program.

    Args:
        error: the error.
        config_name: primary config of the command; its keys are suggested for mistyped keys.
        composing: whether the error occurred while Hydra read the command line.
            It is then always an error of the user.
    """
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, MarAccelError):
            return str(cause)
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return _unknown_member(cause)
        if isinstance(cause, ConfigCompositionException) and (there := _THERE.search(str(cause))):
            return f"{there[1]} is already in the config; write it without the +."
        if isinstance(cause, ConfigCompositionException) and _KEY.search(str(cause)):
            return _unknown_key(str(cause), config_name)
    for cause in chain:
        if isinstance(cause, OverrideParseException):
            return (
                f"{cause.override} cannot be read ({_reason(cause)}); put a value with special characters in "
                "two pairs of quotes, as in 'key=\"a=b\"'."
            )
        if isinstance(cause, OmegaConfBaseException):
            where = f"{cause.full_key}: " if cause.full_key else ""
            return f"{where}{_first_line(cause)}; see the config with --cfg job."
    if "Config group override must be a string" in str(error):
        return "a group needs a member: write its name, as in sampler=mar, or none where the group has that."
    if composing or isinstance(error, HydraException):
        return f"the command line cannot be read: {_first_line(error)}."
    return None


def _reason(error: OverrideParseException) -> str:
    """The first line of the message of Hydra's parser, without the override itself."""
    return (
        _first_line(error)
        .removeprefix("Error parsing override ")
        .removeprefix(f"'{error.override}'")
        .strip(": ")
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _unknown_member(error: MissingConfigException) -> str:
    group, _, member = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"there is no config {member}; choose a member of a group."
    known = ", ".join(option for option in error.options or () if not option.startswith("_"))
    return f"{group}={member} is unknown; choose one of {known}."


def _unknown_key(message: str, config_name: str) -> str:
    match = _KEY.search(message)
    assert match is not None
    key = match.group(1)
    above, _, name = key.rpartition(".")
    if above == "trainer" and name in TRAINING_ONLY:
        return training_only(key)
    foreign = foreign_key(key, config_name)
    if foreign:
        return foreign
    known = [other for other in _known_keys(config_name) if other != key and "._" not in other]
    beside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == above]
    near = [f"{above}.{other}" if above else other for other in nearest(name, beside)]
    # Another parent of the same depth: dataste.labels.
    near = near or nearest(key, [other for other in known if other.count(".") == key.count(".")])
    advice = f"did you mean {near[0]}?" if near else "see all keys with --cfg job."
    return f"{key} is not a key of the config; {advice}"


def _known_keys(config_name: str) -> list[str]:
    """All keys of a command's default config, including nested keys."""
    from hydra import compose

    from mar_accel.config.compose import our_hydra

    # With the members that were chosen, since their keys differ; the wrong key may be among them.
    chosen = [argument for argument in sys.argv[1:] if _CHOICE.fullmatch(argument)]
    for overrides in (chosen, []):
        # A failed suggestion must not cause a second error.
        with contextlib.suppress(Exception), our_hydra():
            return list(_flat_keys(compose(config_name, overrides)))
    return []


def _flat_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield prefix + key
        if OmegaConf.is_interpolation(config, key) or OmegaConf.is_missing(config, key):
            continue
        if isinstance(config[key], DictConfig):
            yield from _flat_keys(config[key], f"{prefix}{key}.")
