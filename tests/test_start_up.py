"""What needs no model answers before torch is imported, which takes seconds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mar_accel

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(path.stem for path in (ROOT / "conf").glob("*.yaml") if not path.stem.startswith("base"))

# Python imports sitecustomize before anything else. Here an import of torch, or of what needs it, is the end.
_NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "lightning", "diffusers"):
            import traceback
            traceback.print_stack()
            sys.stderr.flush()
            import os
            os._exit(77)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Environment in which importing torch, Lightning or diffusers ends the process with status 77."""
    (tmp_path / "sitecustomize.py").write_text(_NO_TORCH)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def _run(
    environment: dict[str, str], module: str, *arguments: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode != 77, f"torch was imported:\n{result.stderr}"
    return result


def test_the_fixture_sees_torch(without_torch: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import torch"]
    assert subprocess.run(command, env=without_torch, capture_output=True, cwd=tmp_path).returncode == 77


def test_the_package_itself_is_light(without_torch: dict[str, str], tmp_path: Path) -> None:
    check = "import mar_accel; print(mar_accel.__version__)"
    run = subprocess.run(
        [sys.executable, "-c", check], env=without_torch, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0 and run.stdout.strip() == mar_accel.__version__, run.stderr


def test_the_list_of_commands(without_torch: dict[str, str], tmp_path: Path) -> None:
    result = _run(without_torch, "mar_accel", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == COMMANDS
    assert all(purpose and "``" not in purpose for _, purpose in lines)


@pytest.mark.parametrize("module", ["mar_accel", *(f"mar_accel.{name}" for name in COMMANDS)])
def test_version(module: str, without_torch: dict[str, str], tmp_path: Path) -> None:
    result = _run(without_torch, module, "--version", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert mar_accel.__version__ in result.stdout and len(result.stdout.splitlines()) == 1


def test_a_command_as_an_argument_names_its_module(without_torch: dict[str, str], tmp_path: Path) -> None:
    result = _run(without_torch, "mar_accel", "generate", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "error: each command is a module; use python -m mar_accel.generate.\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does(name: str, without_torch: dict[str, str], tmp_path: Path) -> None:
    result = _run(without_torch, f"mar_accel.{name}", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"python -m mar_accel.{name}" in result.stdout
    assert list(tmp_path.glob("outputs")) == []


TYPOS = {"seeed=1": "seeed", "smapler=mar": "smapler", "logger=cvs": "logger", "seed=[1": "seed"}
# Each command is a new process, so the other commands share the typos out.
TYPED = [
    *(("generate", typo) for typo in TYPOS),
    *zip((name for name in COMMANDS if name != "generate"), itertools.cycle(TYPOS), strict=False),
]


@pytest.mark.parametrize(
    ("name", "typo"),
    [pytest.param(*typed, marks=[] if typed[0] == "generate" else pytest.mark.slow) for typed in TYPED],
)
def test_typos_are_told_at_once(name: str, typo: str, without_torch: dict[str, str], tmp_path: Path) -> None:
    result = _run(without_torch, f"mar_accel.{name}", typo, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and TYPOS[typo] in line
    assert list(tmp_path.glob("outputs")) == []
