"""Errors that a user can fix: one sentence with the config key or file, what is wrong, and what to do."""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The exit status of a command; docs/runs.md says when each one occurs."""

    DONE = 0
    REFUSED = 2  # the user has to change something first
    INCOMPLETE = 3  # everything was sampled, but images are missing or not finite
    STOPPED = 75  # the same command goes on where it stopped; sysexits.h calls it a temporary failure


class MarAccelError(Exception):
    """Base class of all errors that commands print as one sentence, without a traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


class ConfigError(MarAccelError, ValueError):
    """A config value is wrong, or two values cannot be combined."""


class WeightsError(MarAccelError):
    """A weight file is missing, damaged or of another model."""


class DataError(MarAccelError):
    """Images or statistics cannot be read or do not fit."""


class IncompleteError(MarAccelError):
    """Images of a run are missing after sampling, or samples are not finite; the others are kept."""

    exit_code = ExitCode.INCOMPLETE
