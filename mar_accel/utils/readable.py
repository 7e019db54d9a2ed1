"""Objects that show their settings: ``HaltonOrder(roll=False)``."""

from __future__ import annotations

import inspect


class Readable:
    """Its ``repr`` is the call that makes it: every argument that it keeps under the argument's name."""

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        # A method of an argument's name is no value, and its own repr would come back here.
        kept = {name: getattr(self, name) for name in names if name in vars(self)}
        arguments = ", ".join(f"{name}={value!r}" for name, value in kept.items())
        return f"{type(self).__name__}({arguments})"
