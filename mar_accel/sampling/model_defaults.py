"""Values that a sampler or cache leaves to the model it is used with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mar_accel.utils.readable import Readable

if TYPE_CHECKING:
    from typing import Self

# The value that means "as model.sampling says".
MODEL: Final = "model"
FromModel = Literal["model"]


class ModelDefaults(Readable):
    """Base of objects with values that the model may decide; parts of an object are resolved with it.

    Attributes:
        model_defaults: by attribute, its key in ``model.sampling`` and the value for models without it.

    Example:
        class Warm(ModelDefaults):
            model_defaults: ClassVar = {"temperature": ("temperature", 1.0)}

            def __init__(self, temperature: float | FromModel = MODEL):
                self.temperature = temperature
    """

    model_defaults: ClassVar[Mapping[str, tuple[str, Any]]] = {}

    def for_model(self, defaults: Mapping[str, Any]) -> Self:
        """The same object with every "model" replaced; itself where there is none.

        Args:
            defaults: ``model.sampling`` of the model.

        Raises:
            ConfigError: the model's value is out of its range.
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
        copied.check_settings()
        return copied

    def check_settings(self) -> None:
        """Raise ConfigError where a value is out of its range; "model" is in every range."""

    def setting(self, name: str) -> Any:
        """A value; its fallback where it is still "model"."""
        value = getattr(self, name)
        return self.model_defaults[name][1] if value == MODEL else value
