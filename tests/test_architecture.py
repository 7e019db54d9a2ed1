"""The layout: a folder imports only the folders below it, and the top holds what users run or import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mar_accel"

# From top to bottom; the commands and pipeline.py stand above all of them.
STOREYS = (
    *(
        "reporting",
        "sweeps",
        "evaluation",
        "analysis",
        "training",
        "profiling",
        "runs",
        "inference",
        "caching",
    ),
    *("sampling", "weights", "metrics", "models", "data", "config", "utils"),
)
TOP = "the top of the package"
# May be imported from everywhere: the errors, and names of the package itself that need no other module.
FREE_MODULES = ("errors",)
FREE_NAMES = ("__version__", *FREE_MODULES)
LIBRARY = ("__init__", "__main__", "errors", "pipeline")


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _storey(module: str) -> str:
    """Folder of a module such as "mar_accel.caching.token"; ``TOP`` for what lies in no folder."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else TOP


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything of the package that a module imports, inside functions too.

    ``from mar_accel.data import digits`` gives "mar_accel.data.digits", whether that is a module or a name.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif _is_import_call(node):
            assert isinstance(node, ast.Call) and isinstance(node.args[0], ast.Constant)
            names = [str(node.args[0].value)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "mar_accel")


def _is_import_call(node: ast.AST) -> bool:
    """``import_module("…")`` and ``__import__("…")``, which no import statement shows."""
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in ("import_module", "__import__")


def _is_allowed(importer: str, imported: str) -> bool:
    """Whether a module may import a name, both in full."""
    first = imported.split(".")[1] if "." in imported else ""
    if first in FREE_NAMES:
        return True
    here, there = _storey(importer), _storey(imported)
    if here == TOP:
        # The package offers the pipeline as its own name; commands import neither it nor each other.
        return there != TOP or (importer == "mar_accel.__init__" and first == "pipeline")
    return there != TOP and STOREYS.index(there) >= STOREYS.index(here)


def _violations() -> list[str]:
    found = []
    for path in _sources():
        module = _module(path)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        package = path.stem == "__init__"
        name = module if not package or path.parent == PACKAGE else module.removesuffix(".__init__")
        for line, imported in _imports(tree, module.removesuffix(".__init__"), package):
            if not _is_allowed(name, imported):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    return found


def test_every_folder_has_its_place() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")}
    assert folders == set(STOREYS)


def test_folders_import_only_what_is_below_them() -> None:
    violations = _violations()
    assert not violations, "\n" + "\n".join(violations)


def test_the_top_holds_what_users_run_or_import() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem in LIBRARY:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert (ROOT / "conf" / f"{path.stem}.yaml").is_file(), f"{path.name} has no Hydra config: no command"
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert "main" in functions, f"{path.name} is a command and has no main()"
        assert any(map(_is_guard, tree.body)), f"python -m mar_accel.{path.stem} would do nothing"


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


@pytest.mark.parametrize(
    ("importer", "statement", "allowed"),
    [
        ("mar_accel.sampling.decode", "from mar_accel.models.mar import MAR", True),
        ("mar_accel.sampling.decode", "from mar_accel.sampling import plan", True),
        ("mar_accel.sampling.decode", "from mar_accel.errors import ConfigError", True),
        ("mar_accel.runs.record", "from mar_accel import __version__", True),
        ("mar_accel.generate", "from mar_accel.runs.entry import command", True),
        ("mar_accel.__init__", "from mar_accel.pipeline import MARPipeline", True),
        ("mar_accel.models.mar", "from mar_accel.sampling import plan", False),
        ("mar_accel.models.mar", "from mar_accel import sampling", False),
        ("mar_accel.models.mar", "from ..sampling import plan", False),
        ("mar_accel.models.mar", "def f():\n    import mar_accel.caching.token", False),
        ("mar_accel.models.mar", "import importlib; importlib.import_module('mar_accel.runs')", False),
        ("mar_accel.evaluation.run", "from mar_accel.generate import generate", False),
        ("mar_accel.evaluation.run", "from mar_accel import MARPipeline", False),
        ("mar_accel.evaluate", "from mar_accel.generate import generate", False),
    ],
)
def test_the_rule_itself(importer: str, statement: str, allowed: bool) -> None:
    imported = [name for _, name in _imports(ast.parse(statement), importer, is_package=False)]
    assert imported and all(_is_allowed(importer, name) for name in imported) == allowed


def test_few_functions_read_a_config() -> None:
    """Below the door there are typed settings; commands' ``main`` gets its config from Hydra."""
    reads = [
        f"{_module(path)}.{node.name}"
        for path in _sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and any(
            "DictConfig" in ast.unparse(argument.annotation)
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            if argument.annotation is not None
        )
    ]
    assert len(reads) <= 12, reads
    assert {name.split(".")[1] for name in reads} <= {"config", "runs", "sweeps"}, reads
