"""An installed package adds members to the groups by a Hydra search-path plugin."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = """
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class Members(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("their_package", "pkg://their_package.conf")
"""


@pytest.mark.slow
def test_members_of_an_installed_package(
    start: Callable[..., subprocess.Popen[str]],
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path / "site"
    files = {
        "hydra_plugins/their_members.py": PLUGIN,
        "their_package/__init__.py": "",
        "their_package/conf/__init__.py": "",
        "their_package/orders.py": (
            "from mar_accel.sampling.orders import RasterOrder\nclass Theirs(RasterOrder):\n    pass\n"
        ),
        "their_package/conf/sampler/order/theirs.yaml": "_target_: their_package.orders.Theirs\n",
        "their_package/conf/sampler/theirs.yaml": "defaults: [mar, override order: theirs, _self_]\n",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    # As site-packages would: the fixture sets PYTHONPATH, so a .pth-like entry is the working directory.
    few = [*tiny_model, "dataset.num_images=1"]
    for number, chosen in enumerate(("sampler=theirs", "sampler.order=theirs", "sampler/order=theirs")):
        process = start(site, "generate", *few, chosen, f"output_dir={tmp_path / str(number)}")
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        record = json.loads((tmp_path / str(number) / "run.json").read_text())
        assert record["config"]["sampler"]["order"] == {"_target_": "their_package.orders.Theirs"}
    process = start(site, "generate", "sampler.order=spiral")
    _, stderr = process.communicate()
    assert process.returncode == 2 and "raster, subsample, theirs." in stderr, "they appear in messages"
