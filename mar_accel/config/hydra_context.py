"""Hydra with the configs of the project: where they are, and the resolvers that they use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.help import keys_of

# Images of an evaluation, if nothing says another number.
NUM_EVALUATED = 1000


def conf_dir() -> Path:
    """Folder of the config groups: inside the installed package, or at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def _run_dir(command: str) -> str:
    """Default run folder.

    It is the job's folder in a multirun, else hydra.run.dir if set, else a folder named by the time. The
    microseconds keep runs apart that start together.
    """
    if HydraConfig.initialized():
        hydra_config = HydraConfig.get()
        if hydra_config.mode == RunMode.MULTIRUN:
            return str(Path(hydra_config.sweep.dir) / str(hydra_config.sweep.subdir))
        if hydra_config.run.dir != "." or "hydra.run.dir=." in hydra_config.overrides.hydra:
            return str(hydra_config.run.dir)
    return str(Path("outputs") / command / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def _num_evaluated(*, _root_: DictConfig) -> int | None:
    """Default number of images of an evaluation; None, so all prompts, for a data set with given prompts."""
    dataset = _root_.get("dataset", {})
    gives_prompts = "prompts" in dataset and dataset.get("prompt_source") is None
    return None if gives_prompts else NUM_EVALUATED


def register_resolvers() -> None:
    """Register the resolvers of the configs, such as ``${run_dir:command}``, unless they are there."""
    if not OmegaConf.has_resolver("run_dir"):
        OmegaConf.register_new_resolver("num_evaluated", _num_evaluated)
        OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True)
        OmegaConf.register_new_resolver("keys_of", keys_of)


@contextmanager
def our_hydra() -> Iterator[None]:
    """A context in which Hydra composes our configs, even inside another Hydra application."""
    register_resolvers()
    if _is_ours():
        # Inside a running command, its search path is used, which the user may have extended.
        yield
        return
    singleton = GlobalHydra.instance()
    others, singleton.hydra = singleton.hydra, None
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            yield
    finally:
        # Leaving our Hydra has put another object in the singleton's place.
        GlobalHydra.instance().hydra = others


def _is_ours() -> bool:
    """Whether the current Hydra instance finds our configs."""
    singleton = GlobalHydra.instance()
    if not singleton.is_initialized():
        return False
    return any(source.path == str(conf_dir()) for source in singleton.config_loader().get_sources())
