"""Errors a user can act on: one sentence naming the config key or file, the fault and the remedy."""


class MarAccelError(Exception):
    """Base of all errors that commands print as one sentence, without a traceback."""


class ConfigError(MarAccelError, ValueError):
    """A config value is out of its range, or two values cannot be combined."""


class WeightsError(MarAccelError):
    """A weight file is missing, damaged, or belongs to another model."""


class DataError(MarAccelError):
    """Images or statistics that were asked for cannot be read or do not fit."""
