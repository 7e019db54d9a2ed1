"""Errors that a user can fix: one sentence with the config key or file, what is wrong, and what to do."""


class MarAccelError(Exception):
    """Base class of all errors that commands print as one sentence, without a traceback."""


class ConfigError(MarAccelError, ValueError):
    """A config value is wrong, or two values cannot be combined."""


class WeightsError(MarAccelError):
    """A weight file is missing, damaged or of another model."""


class DataError(MarAccelError):
    """Images or statistics cannot be read or do not fit."""
