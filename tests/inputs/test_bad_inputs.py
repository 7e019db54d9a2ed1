"""One table of bad inputs over all commands: each is refused in one sentence, before any weights are read.

Wrong types and ranges of all other keys are tried in test_every_key.py.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from mar_accel.weights import files, loading
from tests.inputs import command_line, commands, model, running, sampling, sweeps
from tests.inputs.row import Row

ROWS: list[Row] = [
    *sampling.ROWS,
    *model.ROWS,
    *running.ROWS,
    *commands.ROWS,
    *command_line.ROWS,
    *sweeps.ROWS,
]
COMMANDS = {
    *("generate", "evaluate", "evaluate_table", "benchmark", "plan", "calibrate", "redundancy", "convert"),
    *("train", "train_features", "collect", "report"),
}
GIGABYTE = 2**20  # ru_maxrss counts KiB


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test whose command opens a file of weights."""

    def opened(path: Path, *arguments: Any) -> Any:
        raise AssertionError(f"{path} was opened")

    for module, name in ((loading, "read_tensors"), (files, "load_file"), (files, "read_pickle")):
        monkeypatch.setattr(module, name, opened)


@pytest.fixture
def one_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra composes each config twice, the first time only to find out whether it is a sweep."""
    monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which a refused command leaves nothing."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_weights", "one_composition")
@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_input_is_one_sentence(row: Row, run_here: Any, empty_folder: Path) -> None:
    given = any("output_dir" in argument for argument in row.arguments)
    where = [] if given else [f"output_dir={empty_folder / 'run'}"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = run_here(row.command, *_quick(row), *where, *row.arguments)
    assert outcome.status == 2, outcome
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ") and row.sentence in line and line.endswith((".", "?")), line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE


def _quick(row: Row) -> list[str]:
    """What a command needs not to do before it refuses its config."""
    few = []
    if row.command.startswith("evaluate") and not any("reference" in item for item in row.arguments):
        few.append("reference.augmentations=0")
    if row.command == "evaluate_table" and not any("table.rows" in item for item in row.arguments):
        few.append(f"table.rows={Path(__file__).parent / 'rows.yaml'}")
    if row.command == "benchmark" and not any("benchmark." in item for item in row.arguments):
        few.append("benchmark.only=[mar]")
    return few


def test_table_is_large_and_has_all_commands() -> None:
    assert len(set(ROWS)) == len(ROWS) >= 220
    assert {row.command for row in ROWS} == COMMANDS
