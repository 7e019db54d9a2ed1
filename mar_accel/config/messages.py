"""One sentence for each error that the user can fix, whether from this package, Hydra or OmegaConf."""

from __future__ import annotations

import contextlib
import errno
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

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

_KEY = re.compile(r"(?:Could not (?:override|append|delete)(?: from config\.)?|Key) '([^']+)'")
_CHOICE = re.compile(r"[a-z_]+(/[a-z_]+)*=\w+")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+)'")
_TWICE = re.compile(r"Multiple values for (\S+)\.")
_OF_THE_SYSTEM = re.compile(r"(.*)\(os error (\d+)\)")
# Faults of a disk or a folder, which are no bug of the program.
_OF_FOLDERS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EIO, errno.ESTALE, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY),
    *(errno.EEXIST, errno.ENOTEMPTY),
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTEMPTY}
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
            inside = [c.full_key for c in chain if isinstance(c, OmegaConfBaseException) and c.full_key]
            return _unknown_key(str(cause), config_name, inside[0] if inside else "")
    for cause in chain:
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause)
        if isinstance(cause, OmegaConfBaseException):
            where = f"{cause.full_key}: " if cause.full_key else ""
            return f"{where}{_first_line(cause)}; see the config with --cfg job."
    if folder := next(filter(None, map(_fault_of_folder, chain)), None):
        return folder
    if ambiguous := _AMBIGUOUS.search(str(error)):
        return (
            f"{ambiguous[1]} has a comma, which separates the values of a sweep (-m); for one value write "
            f"{_quoted(ambiguous[1])}."
        )
    if twice := _TWICE.search(str(error)):
        return f"{twice[1]} has a member already; choose another one by {twice[1]}=MEMBER, without the +."
    if "Config group override must be a string" in str(error):
        return "a group needs a member: write its name, as in sampler=mar, or none where the group has that."
    if composing or isinstance(error, HydraException):
        return f"the command line cannot be read: {_first_line(error)}."
    return None


def _unreadable(error: OverrideParseException) -> str:
    """The message for an override that Hydra's parser refuses, with how to quote it."""
    override = error.override
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} cannot be read; write it as {key}=VALUE."
    if not value or value[0] in "[{\"'" or '"' in value:
        reason = _reason(error)
        return (
            f"{override} cannot be read{f' ({reason})' if reason else ''}; close all brackets and quotes, "
            "and put text with special characters in quotes."
        )
    return f"{override} has characters that need two pairs of quotes; write {_quoted(override)}."


def _quoted(override: str) -> str:
    """An override whose value Hydra takes as one text, quoted for the shell."""
    key, _, value = override.partition("=")
    # A quoted ~ is the name of a folder.
    value = str(Path(value).expanduser()) if value.startswith("~") else value
    return shlex.quote(f'{key}="{value}"')


def _fault_of_folder(error: BaseException) -> str | None:
    """The message for a full disk, or for a folder that was removed or cannot be written."""
    number, reason, name = (
        (error.errno, error.strerror, error.filename) if isinstance(error, OSError) else (None, None, None)
    )
    if type(error).__name__ == "SafetensorError" and (found := _OF_THE_SYSTEM.search(str(error))):
        number, reason = int(found[2]), found[1].strip().rpartition(": ")[2]
    if number not in _OF_FOLDERS:
        return None
    where = "a file" if name is None else _shown_file(Path(str(name)))
    advice = "check that it exists and that you may use it"
    if number in _FULL:
        advice = "free some space"
    elif number in _IN_THE_WAY:
        advice = "remove it"
    return f"{where} cannot be read or written ({reason}); {advice}, then run the same command again."


def _shown_file(file: Path) -> str:
    """The name of a file; for a temporary one, that of the file it would become."""
    if file.name.startswith(".") and file.suffix == ".tmp":
        return str(file.with_name(file.name[1:].rsplit(".", 2)[0]))
    return str(file)


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
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _unknown_member(error: MissingConfigException) -> str:
    group, _, member = str(error.missing_cfg_file).rpartition("/")
    if not group:
        return f"there is no config {member}; choose a member of a group."
    known = ", ".join(option for option in error.options or () if not option.startswith("_"))
    return f"{group}={member} is unknown; choose one of {known}."


def _unknown_key(message: str, config_name: str, inside: str) -> str:
    """The message for an unknown key; ``inside`` is the key that OmegaConf refused, "" if unknown."""
    match = _KEY.search(message)
    assert match is not None
    key = match.group(1)
    if inside.startswith(f"{key}."):
        # A group of settings was given for a key that exists.
        return (
            f"{inside} is not a key of the config; correct it, or add it to a class of your own by "
            f"++{inside}=VALUE."
        )
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

    from mar_accel.config.hydra_context import our_hydra

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
