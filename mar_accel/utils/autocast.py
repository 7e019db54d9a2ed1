"""Matrix products outside autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context whose products keep the dtype of their factors, also under mixed precision."""
    # Tensors without storage, on which FLOPs are counted, have no autocast.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
