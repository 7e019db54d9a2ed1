"""Every tensor that is made names its dtype, and its device where a model runs.

A Trainer sets torch's default dtype to its precision, and users set a default device. A tensor that takes the
default then has another dtype than its neighbours, or loses digits without a word.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mar_accel"
# Functions whose result takes a default where nothing is named; `*_like`, `new_*` and `from_numpy` do not.
FACTORIES = (
    *("tensor", "as_tensor", "empty", "zeros", "ones", "full", "eye", "arange", "linspace"),
    *("rand", "randn", "normal", "empty_strided", "logspace", "scalar_tensor"),
)
# These give int64 under every default dtype.
INTEGERS = ("randint", "randperm")
# What runs on the model's device, or draws on the CPU what is moved there.
ON_DEVICES = ("sampling", "caching", "models", "inference")
FILES = sorted(PACKAGE.rglob("*.py"))


def _factories(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of torch's factories, except parameters of a module, which follow where the module is built."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.Call):
            yield from _factories(node)
            continue
        name = ast.unparse(node.func)
        if name == "nn.Parameter":
            continue
        if name.startswith("torch.") and name.removeprefix("torch.") in (*FACTORIES, *INTEGERS):
            yield node
        yield from _factories(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensors_name_dtype_and_device(path: Path) -> None:
    device = {"device"} if path.parent.name in ON_DEVICES else set()
    for call in _factories(ast.parse(path.read_text())):
        named = {keyword.arg for keyword in call.keywords}
        if None in named:  # **keywords name both
            continue
        integers = ast.unparse(call.func).removeprefix("torch.") in INTEGERS
        missing = (device if integers else device | {"dtype"}) - named
        assert not missing, (
            f"{path.name}:{call.lineno}: {ast.unparse(call)} has no {' and no '.join(missing)}"
        )
