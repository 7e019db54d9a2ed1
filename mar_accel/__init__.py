"""Training-free acceleration of masked autoregressive (MAR) image models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mar_accel.pipeline import MARPipeline

__version__ = "0.1.0"
__all__ = ["MARPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is asked for: commands start without torch."""
    if name == "MARPipeline":
        from mar_accel.utils.threads import set_default_threads

        # Before torch is imported, as in the commands.
        set_default_threads()
        from mar_accel.pipeline import MARPipeline

        return MARPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
