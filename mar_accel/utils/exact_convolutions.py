"""Convolutions in float32 that give the same numbers on every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Keep cuDNN from rounding float32 convolutions to TF32, as a context or a decorator.

    cuDNN does so by default. Then pixels and features would depend on the device. The caller's own choice
    holds again afterwards.

    Example:
        >>> with exact_convolutions():
        ...     images = autoencoder.decode(latents)
    """
    switch: Any = torch.backends.cudnn
    name: str = "allow_tf32"
    exact: Any = False
    try:
        chosen = switch.allow_tf32
    except RuntimeError:
        # The caller has used torch's newer switches, beside which the older one cannot be read.
        switch, name, exact = switch.conv, "fp32_precision", "ieee"
        chosen = switch.fp32_precision
    setattr(switch, name, exact)
    try:
        yield
    finally:
        setattr(switch, name, chosen)
