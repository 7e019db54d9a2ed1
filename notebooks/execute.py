"""Run the notebooks and store their outputs: ``python notebooks/execute.py [NAME …]``.

Warnings and progress are left out: they show paths and packages of one machine.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).parent
# Largest width and height of a stored picture, in pixels.
MAX_SIZE = 1000


def execute(path: Path) -> None:
    """Run a notebook in an empty folder, and store it with the outputs that a reader needs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(notebook, timeout=None, record_timing=False, resources=resources)
        client.execute()
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook: Any) -> None:
    """Keep what the cells print and the pictures that they show."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_kept(output)]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _smaller(output.data["image/png"])
                    output.data.pop("image/jpeg", None)


def _is_kept(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.name == "stdout")
    return output.output_type == "error" or "image/png" in output.data


def _smaller(png: str) -> str:
    """A picture that is no larger than a page needs; base64 before and after."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((MAX_SIZE, MAX_SIZE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(file.stem for file in FOLDER.glob("*.ipynb")):
        execute(FOLDER / f"{name}.ipynb")
