"""Settings of a sampler or cache whose defaults come from the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mar_accel.errors import ConfigError
from mar_accel.utils.readable import Readable

if TYPE_CHECKING:
    from typing import Self

# Placeholder for the default in model.sampling.
MODEL: Final = "model"
FromModel = Literal["model"]


class ModelDefaults(Readable):
    """Base class of objects with settings that may come from the model.

    Attributes:
        model_defaults: maps an attribute to its key in ``model.sampling`` and a fallback value.

    Example:
        class Warm(ModelDefaults):
            model_defaults: ClassVar = {"temperature": ("temperature", 1.0)}

            def __init__(self, temperature: float | FromModel = MODEL):
                self.temperature = temperature
    """

    model_defaults: ClassVar[Mapping[str, tuple[str, Any]]] = {}

    def for_model(self, defaults: Mapping[str, Any]) -> Self:
        """Replace every "model" by the model's value, also in the parts of the object.

        Args:
            defaults: ``model.sampling`` of the model.

        Returns:
            A copy with the values filled in; the object itself if there is nothing to replace.

        Raises:
            ConfigError: a value of the model is out of range.
        """
        changes: dict[str, Any] = {
            name: defaults.get(key, fallback)
            for name, (key, fallback) in self.model_defaults.items()
            if getattr(self, name) == MODEL
        }
        for name, part in vars(self).items():
            resolved = part.for_model(defaults) if isinstance(part, ModelDefaults) else part
            if resolved is not part:
                changes[name] = resolved
        if not changes:
            return self
        copied = copy.copy(self)
        vars(copied).update(changes)
        try:
            copied.check_settings()
        except ConfigError as error:
            sources = [self.model_defaults[name][0] for name in changes if f".{name} " in str(error)]
            taken = f"; it is model.sampling.{sources[0]}, so correct that" if sources else ""
            raise ConfigError(f"{str(error).removesuffix('.')}{taken}.") from None
        return copied

    def check_settings(self) -> None:
        """Raise ConfigError if a value is out of range; "model" is always valid."""

    def setting(self, name: str) -> Any:
        """Value of a setting, or its fallback if it is still "model"."""
        value = getattr(self, name)
        return self.model_defaults[name][1] if value == MODEL else value
