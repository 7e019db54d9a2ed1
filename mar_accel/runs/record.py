"""run.json: the record of how a result was made."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from mar_accel.config.settings import Settings

RECORDED_PACKAGES = (
    *("mar_accel", "torch", "lightning", "hydra-core", "omegaconf", "diffusers", "torchmetrics"),
    *("numpy", "pillow", "safetensors", "huggingface_hub", "wandb"),
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_revision() -> str | None:
    """Git revision of the package's checkout, with "-dirty" if changed; None outside a checkout."""
    package = Path(__file__).resolve().parents[1]
    # An installed package may lie inside an unrelated checkout that does not track it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40")


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in a folder; None if it fails or git is missing."""
    # Git refuses a checkout of another owner, as in a container, although Python already runs code from it.
    trust = ("-c", f"safe.directory={_checkout(folder)}", "-c", "core.fsmonitor=false")
    command = ["git", *trust, *arguments]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _checkout(folder: Path) -> Path:
    """The folder above that has ``.git``, or the folder itself."""
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def hardware() -> dict[str, Any]:
    """The hardware and threads of this process."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cuda": torch.version.cuda if gpus else None,
    }


def environment(record: dict[str, Any] | None = None) -> dict[str, Any]:
    """Conditions of a speed besides its config: code revision, hardware and threads.

    Args:
        record: the record of a run. None: this process.
    """
    machine = hardware() if record is None else record.get("hardware") or {}
    return {
        "revision": git_revision() if record is None else record.get("git_revision"),
        **{key: machine.get(key) for key in ("processor", "cpu_count", "torch_threads")},
        "gpus": [gpu["name"] for gpu in machine.get("gpus") or []],
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def run_record(settings: Settings, **results: Any) -> dict[str, Any]:
    """The record of a run: its config, versions, revision, hardware, seed and results."""
    return {
        "command": settings.command,
        "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        **results,
        "config": settings.plain(),
        "versions": package_versions(),
        "git_revision": git_revision(),
        "hardware": hardware(),
    }
