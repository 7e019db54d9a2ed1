"""Errors that a user can fix: one sentence with the config key or file, what is wrong, and what to do."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of a command; docs/runs.md says when each one occurs."""

    DONE = 0
    FAULT = 1  # a fault of the program, with its traceback; Python's own code
    REFUSED = 2  # the user has to change something first
    INCOMPLETE = 3  # everything was sampled, but images are missing or not finite
    STOPPED = 75  # the same command goes on where it stopped; sysexits.h calls it a temporary failure


class MarAccelError(Exception):
    """Base class of all errors that commands print as one sentence, without a traceback."""

    exit_code: ExitCode = ExitCode.REFUSED


class ConfigError(MarAccelError, ValueError):
    """A config value is wrong, or two values cannot be combined."""


class WeightsError(MarAccelError):
    """A weight file is missing, damaged or of another model."""


class DataError(MarAccelError):
    """Images or statistics cannot be read or do not fit."""


class BatchSizeError(ConfigError):
    """A batch does not fit into memory, and cannot be sampled in parts."""


class IncompleteError(MarAccelError):
    """Images of a run are missing after sampling, or samples are not finite; the others are kept."""

    exit_code = ExitCode.INCOMPLETE


class ProcessError(MarAccelError):
    """Another process of the run was killed or has failed; the images that it has written are kept."""

    def __init__(self, message: str, exit_code: int = ExitCode.STOPPED):
        super().__init__(message)
        known = {int(code) for code in ExitCode}
        self.exit_code = ExitCode(exit_code) if exit_code in known else ExitCode.FAULT
