"""Recorded cases: files of any folder, by the kind that each one states."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

TOLERANCE = 1e-4
FOLDER = Path(os.environ.get("MAR_ACCEL_GOLDEN", Path(__file__).parents[1] / "data" / "golden"))
PREFIX = "weights/"


def describe(path: Path) -> dict[str, Any]:
    """What a file says about itself; a file without a description is of the kind of its name."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    case: dict[str, Any] = json.loads(metadata.get("case", "{}"))
    return {"kind": path.stem, **case}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a case."""
    return describe(path), load_file(path)


def paths_of(text_models: bool) -> list[Path]:
    """The cases of text models (kind lightgen), or all others."""
    files = sorted(FOLDER.glob("*.safetensors"))
    return [path for path in files if (describe(path)["kind"] == "lightgen") == text_models]


def manifests() -> list[Path]:
    """Lists of a checkpoint's keys and shapes."""
    return sorted((FOLDER / "manifests").glob("*.json"))


def shapes(path: Path) -> dict[str, list[int]]:
    """Keys and shapes in a manifest."""
    return {key: list(shape) for key, shape in json.loads(path.read_text()).items()}


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a case."""
    return {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Fail if the relative error is above the tolerance."""
    assert actual.shape == expected.shape, what
    error = float((actual - expected).norm() / expected.norm().clamp(min=1e-12))
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"
