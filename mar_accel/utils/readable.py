"""Objects whose ``repr`` shows their settings, such as ``HaltonOrder(roll=False)``."""

from __future__ import annotations

import inspect


class Readable:
    """Base class whose ``repr`` is a constructor call.

    It shows each argument that is stored in an attribute of the same name.
    """

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        # vars() excludes methods with the name of an argument: their repr would call this one again.
        kept = {name: getattr(self, name) for name in names if name in vars(self)}
        arguments = ", ".join(f"{name}={value!r}" for name, value in kept.items())
        return f"{type(self).__name__}({arguments})"
