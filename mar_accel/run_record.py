"""run.json: everything that is needed to know what a result came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mar_accel.errors import ConfigError

RECORDED_PACKAGES = ("mar_accel", "torch", "lightning", "hydra-core", "omegaconf", "diffusers", "torchmetrics")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_revision() -> str | None:
    """Revision of the checkout that the package runs from, with "-dirty" if changed; None outside one."""
    folder = Path(__file__).resolve().parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """What the run ran on."""
    record: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    return record


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def run_record(config: DictConfig, **results: Any) -> dict[str, Any]:
    """The record of a run: resolved config, versions, revision, hardware, seed and its results."""
    return {
        "command": config.command,
        "seed": config.seed,
        **results,
        "config": OmegaConf.to_container(config, resolve=True),
        "versions": package_versions(),
        "git_revision": git_revision(),
        "hardware": hardware(),
    }


def write_json(record: Any, path: Path) -> None:
    """Write through a temporary name, so that a kill leaves no half file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, path)


def prepare_output_dir(output_dir: Path, key: str = "output_dir") -> Path:
    """Create the run folder, or say in one sentence why that cannot be."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{key}={output_dir} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    return output_dir
