"""The notebooks run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# An absolute path: of a home, a temporary folder, an environment.
LOCAL_PATH = re.compile(r"(?<![\w.:/])(?:~|[A-Z]:)?[/\\][\w.-]+[/\\][\w.-]+")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    # Few steps and no trained weights: what is tested is that the notebook runs.
    monkeypatch.setenv("MAR_ACCEL_NOTEBOOK_WEIGHTS", "random")
    monkeypatch.setenv("MAR_ACCEL_NOTEBOOK_OVERRIDES", "sampler.num_iter=8 sampler.num_diffusion_steps=5")
    notebook = nbformat.read(path, as_version=4)
    # Cells have no deadline but the test's; a kernel's start cannot be left without one.
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=None, startup_timeout=1200, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture was shown"
    assert list(tmp_path.iterdir()) == [], "the notebook left files"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    """On the web they are read, not run. ``python notebooks/execute.py`` makes the outputs."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it in one go"
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        texts = [str(text) for kind, text in output.get("data", {}).items() if kind != "image/png"]
        for text in (output.get("text", ""), *texts):
            assert not LOCAL_PATH.search(text), f"an output shows a local path: {text}"
