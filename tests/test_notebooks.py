"""The notebooks run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_notebooks_are_stored_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)
