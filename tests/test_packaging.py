"""A wheel carries everything that its commands need, and runs where there is no checkout."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built by the installed backend so that no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else; dependencies are those of the test run."""
    folder = tmp_path_factory.mktemp("installed")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return folder


def run_installed(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the installed wheel before everything else on its path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_config_groups_travel(contents: set[str]) -> None:
    expected = {f"mar_accel/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "mar_accel/conf/generate.yaml" in expected
    assert expected <= contents
    assert not any(name.startswith("conf/") for name in contents), "a package named conf would be installed"


def test_embedded_weights_travel(contents: set[str]) -> None:
    assets = [
        path for path in (ROOT / "mar_accel" / "assets").rglob("*") if path.suffix in (".safetensors", ".md")
    ]
    assert {path.suffix for path in assets} == {".safetensors", ".md"}, "weights or model card are missing"
    assert {str(path.relative_to(ROOT)) for path in assets} <= contents


def test_only_the_package_is_installed(contents: set[str]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mar_accel", "hydra_plugins"}


def test_console_scripts_name_functions_of_the_package(installed: Path, tmp_path: Path) -> None:
    check = (
        "from importlib.metadata import distribution\n"
        "scripts = distribution('mar-accel').entry_points.select(group='console_scripts')\n"
        "assert all(callable(script.load()) for script in scripts)\n"
        "print(sorted(script.name for script in scripts))\n"
    )
    result = run_installed(installed, tmp_path, "-c", check)
    assert result.returncode == 0, result.stderr
    scripts = set(ast.literal_eval(result.stdout.strip().splitlines()[-1]))
    modules = [path.stem for path in (ROOT / "mar_accel").glob("*.py") if _is_command(path)]
    assert "generate" in modules and "train" in modules
    assert scripts == {f"mar-{module.replace('_', '-')}" for module in modules}


def _is_command(path: Path) -> bool:
    return (ROOT / "conf" / f"{path.stem}.yaml").is_file()


@pytest.fixture(scope="module")
def metadata(wheel: Path, contents: set[str]) -> Message:
    """What the wheel says of itself."""
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_is_typed_and_described(contents: set[str], metadata: Message) -> None:
    assert "mar_accel/py.typed" in contents
    assert metadata["Requires-Python"] == "<3.15,>=3.11"
    versions = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier", [])}
    assert {"3.11", "3.12", "3.13", "3.14"} <= versions and "3.10" not in versions
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_every_requirement_is_imported_somewhere(metadata: Message) -> None:
    """What nothing imports is not asked for; development tools are run, not imported."""
    folders = [ROOT / name for name in ("mar_accel", "hydra_plugins")]
    sources = [
        *(path for folder in folders for path in folder.rglob("*.py")),
        *(ROOT / "conf").rglob("*.yaml"),
    ]
    text = "\n".join(path.read_text() for path in sources)
    modules = {
        "hydra-core": "hydra",
        "pillow": "PIL",
        "scikit-learn": "sklearn",
        "vl-convert-python": "vl_convert",
    }
    # Lightning's loggers import these.
    loggers = {"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
    # Hydra finds the launchers by itself; transformers needs accelerate to load weights in 8 bits.
    indirect = ("hydra-joblib-launcher", "hydra-submitit-launcher", "submitit", "accelerate")
    for line in metadata.get_all("Requires-Dist", []):
        if "extra == 'dev'" in line.replace('"', "'"):
            continue
        name = re.split(r"[<>=;\[ ]", line)[0].lower()
        if name in indirect:
            continue
        module = modules.get(name, name.replace("-", "_"))
        imported = re.search(rf"^\s*(import|from) {module}\b", text, re.MULTILINE)
        assert imported or loggers.get(name, "no logger") in text, f"nothing imports {module}"


def test_core_needs_no_torchvision(metadata: Message) -> None:
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in core)
    # torch-fidelity would bring it.
    assert not [line for line in core if line.startswith(("torchvision", "torch-fidelity"))]


def test_installed_wheel_generates_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    cwd, output_dir = tmp_path / "empty", tmp_path / "run"
    cwd.mkdir()
    where = run_installed(installed, cwd, "-c", "import mar_accel; print(mar_accel.__file__)")
    assert Path(where.stdout.strip()) == installed / "mar_accel" / "__init__.py"
    listed = run_installed(installed, cwd, "-m", "mar_accel")
    assert listed.returncode == 0 and "generate" in listed.stdout

    result = run_installed(
        installed,
        cwd,
        *("-m", "mar_accel.generate", "model=digits", "model.weights=random", "logger=none"),
        *("dataset.num_images=2", "trainer.batch_size=2"),
        *("sampler.num_iter=4", "sampler.num_diffusion_steps=10"),
        f"output_dir={output_dir}",
    )
    assert result.returncode == 0, result.stderr
    images = sorted((output_dir / "images").glob("*.png"))
    assert len(images) == 2
    for path in [*images, output_dir / "grid.png"]:
        with Image.open(path) as image:
            image.load()
    assert "config" in json.loads((output_dir / "run.json").read_text())
    assert list(cwd.iterdir()) == [], "the run left files outside its run folder"
