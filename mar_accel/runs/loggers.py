"""Loggers: a run tells its logger the config before it samples, and its results once they are on disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node
from mar_accel.runs.identity import NEVER_COUNTS
from mar_accel.runs.record import check_output_dir
from mar_accel.utils import markdown
from mar_accel.utils.ranks import is_first_process

P = ParamSpec("P")

# Groups in the tags of a run.
_TAGGED = ("model", "sampler", "cache", "dataset")
# Overrides that do not belong to the name of a run, besides those that never count.
_NOT_IN_NAMES = (
    *(
        *NEVER_COUNTS,
        *_TAGGED,
        "trainer",
        "experiment",
        "debug",
        "evaluate",
        "generate",
        "table",
        "callbacks",
    ),
    *("features", "reference", "metrics"),
)
AR_STEP = "ar_step"


def _guarded(method: Callable[Concatenate[RunLog, P], None]) -> Callable[Concatenate[RunLog, P], None]:
    """Turn a failure of the logger into a warning. The results are on disk, and no run is lost by it."""

    @wraps(method)
    def call(self: RunLog, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.logger is None or self.failed:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.failed = True
            _warn(error, self.settings.output_dir)

    return call


class RunLog:
    """What one run tells its logger. Used as a context, it says at the end whether the run succeeded.

    Attributes:
        logger: the logger; None: nothing is logged.
        settings: settings of the run.
        failed: whether the logger has failed. It is not called again then.

    Example:
        >>> with RunLog.of(settings) as log:
        ...     log.start()
        ...     log.numbers({"fid": 2.5})
    """

    def __init__(self, logger: Logger | None, settings: Settings):
        self.logger = logger
        self.settings = settings
        self.failed = False
        self.started = False

    @classmethod
    def of(cls, settings: Settings, run_id: str | None = None) -> Self:
        """The log of a config. Its run starts with :meth:`start`, or with what is logged first.

        Args:
            settings: settings of the run.
            run_id: id of the W&B run; an existing run with this id is resumed. None: a new run.

        Raises:
            ConfigError: the logger's package is missing, or its node is wrong.
        """
        return cls(open_logger(settings, run_id), settings)

    @property
    def shows_single_images(self) -> bool:
        """Whether :meth:`images` has an effect."""
        return isinstance(self.logger, WandbLogger)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if self.started:
            self._finish(kind is None)

    @_guarded
    def start(self) -> None:
        """Start the run, with its config. W&B measures the system from here on, and shows a crash."""
        if self.started:
            return
        self.started = True
        assert self.logger is not None
        if isinstance(self.logger, WandbLogger):
            run = self.logger.experiment
            # The curves over the AR steps have an axis of their own, and their last values are no results.
            run.define_metric(f"{AR_STEP}/index", hidden=True, summary="none")
            run.define_metric(f"{AR_STEP}/*", step_metric=f"{AR_STEP}/index")
        self.logger.log_hyperparams(self.settings.plain())

    @_guarded
    def numbers(self, numbers: Mapping[str, float]) -> None:
        """Log the results of the run. TensorBoard's HPARAMS show them beside the config."""
        self.start()
        assert self.logger is not None
        if isinstance(self.logger, TensorBoardLogger):
            self.logger.log_hyperparams(self.settings.plain(), metrics=dict(numbers))
        else:
            self.logger.log_metrics(dict(numbers))

    @_guarded
    def ar_steps(self, records: Sequence[Mapping[str, float]]) -> None:
        """Log curves over the AR steps; each record has its ``index``."""
        self.start()
        assert self.logger is not None
        if isinstance(self.logger, WandbLogger):
            # Of a pattern W&B takes the axis alone; "no summary" has to be said of every curve.
            for key in dict.fromkeys(key for record in records for key in record if key != "index"):
                name = f"{AR_STEP}/{key}"
                self.logger.experiment.define_metric(name, step_metric=f"{AR_STEP}/index", summary="none")
        for record in records:
            values = {f"{AR_STEP}/{key}": value for key, value in record.items() if key != "index"}
            index = int(record["index"])
            if isinstance(self.logger, WandbLogger):
                self.logger.experiment.log({f"{AR_STEP}/index": index, **values})
            else:
                self.logger.log_metrics(values, step=index)

    @_guarded
    def picture(self, name: str, path: Path, caption: str) -> None:
        """Log a picture; loggers that cannot show one skip it."""
        self.start()
        if isinstance(self.logger, WandbLogger):
            self.logger.log_image(key=name, images=[str(path)], caption=[caption])
        elif isinstance(self.logger, TensorBoardLogger):
            pixels: Any = np.asarray(Image.open(path).convert("RGB"))
            self.logger.experiment.add_image(name, pixels, dataformats="HWC")

    @_guarded
    def images(self, name: str, images: Sequence[Any], captions: Sequence[str]) -> None:
        """Log single images, uint8 [H, W] or [H, W, 3], each with its caption; W&B alone shows them so."""
        self.start()
        if isinstance(self.logger, WandbLogger):
            self.logger.log_image(key=name, images=list(images), caption=list(captions))

    @_guarded
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table: to W&B, which joins those of one name over all runs; to TensorBoard as text."""
        self.start()
        if isinstance(self.logger, WandbLogger):
            self.logger.log_table(key=name, columns=list(columns), data=[list(row) for row in rows])
        elif isinstance(self.logger, TensorBoardLogger):
            text = markdown.table(list(columns), [[str(cell) for cell in row] for row in rows])
            self.logger.experiment.add_text(name, text)

    @_guarded
    def page(self, name: str, path: Path) -> None:
        """Log an HTML page; W&B alone shows one."""
        self.start()
        if isinstance(self.logger, WandbLogger):
            import wandb

            self.logger.experiment.log({name: wandb.Html(str(path))})

    def _finish(self, success: bool) -> None:
        self._close(success)
        if isinstance(self.logger, WandbLogger):
            # Also after a failure: the next job of a multirun would go on with an open W&B run.
            with may_fail(Path(self.settings.output_dir)):
                self.logger.experiment.finish(exit_code=0 if success else 1)

    @_guarded
    def _close(self, success: bool) -> None:
        assert self.logger is not None
        self.logger.save()
        self.logger.finalize("success" if success else "failed")


def open_logger(settings: Settings, run_id: str | None = None) -> Logger | None:
    """The logger of a config; with ``logger=wandb`` the run gets a name, a group and tags.

    Args:
        settings: settings of the run.
        run_id: id of the W&B run; an existing run with this id is resumed. None: a new run.

    Raises:
        ConfigError: the logger cannot be built, needs a login, or its folder cannot be written.
    """
    node = settings.logger
    arguments: dict[str, Any] = {}
    _check_save_dir(settings)
    if (node.get("_target_") or "").endswith(".WandbLogger"):
        if node.get("offline") is False:
            _require_login()
        arguments = {
            "id": node.get("id") or run_id,
            "resume": node.get("resume") or "allow",
            "name": node.get("name") or run_name(settings),
            "group": node.get("group") or _sweep_name(),
            "job_type": node.get("job_type") or settings.command,
            "tags": [*(node.get("tags") or ()), *run_tags(settings)],
        }
    try:
        return build_node("logger", node, Logger, **arguments)
    except ConfigError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            kind = node["_target_"].rsplit(".", 1)[-1]
            raise ConfigError(
                f"logger: {kind} needs a package that is not installed; install it (for TensorBoard: pip "
                "install -e '.[tensorboard]') or choose another logger."
            ) from error
        raise


def _check_save_dir(settings: Settings) -> None:
    """Raise ConfigError if the logger has a folder of its own that cannot be written."""
    save_dir = settings.logger.get("save_dir")
    if settings.logger.get("_target_") is None or not isinstance(save_dir, str):
        return
    folder = Path(save_dir).absolute()
    if is_first_process() and not folder.is_relative_to(Path(settings.output_dir).absolute()):
        check_output_dir(folder, "logger.save_dir")


def _require_login() -> None:
    """Raise ConfigError if W&B would ask for a key, or fail, only after all images are sampled."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") not in ("online", "run"):
        return
    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:  # its library may raise anything
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"logger.offline=false: W&B cannot be reached, or refuses the key ({reason}); check both, or use "
            "logger.offline=true."
        ) from error
    if not logged_in:
        raise ConfigError(
            "logger.offline=false needs a login at W&B; run wandb login, set WANDB_API_KEY, or use "
            "logger.offline=true and upload the run later with wandb sync."
        )


@contextmanager
def may_fail(output_dir: Path) -> Iterator[None]:
    """A context in which a failing logger costs only a warning, since the results are on disk.

    Args:
        output_dir: the run folder with the results.
    """
    try:
        yield
    except Exception as error:  # a logger's library may raise anything
        _warn(error, output_dir)


def _warn(error: Exception, output_dir: str | Path) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    print(f"warning: the logger has failed ({reason}); all results are in {output_dir}.", file=sys.stderr)


def run_name(settings: Settings) -> str:
    """A name that people can read: ``gtr+lazymar cache.token.ratios=0.1``.

    It has the sampler, the cache, and the overrides that change images.
    """
    if not _has_choices(settings):
        return " ".join(run_tags(settings))
    choices = HydraConfig.get().runtime.choices
    cache = choices.get("cache")
    parts = [str(choices.get("sampler")), *([str(cache)] if cache not in (None, "none") else [])]
    overrides = [override for override in HydraConfig.get().overrides.task if _is_in_names(override)]
    return " ".join(["+".join(parts), *overrides])


def _is_in_names(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    if key == "dataset.num_images":
        return False
    return not any(
        key == other or (key.startswith(f"{other}.") and other not in _TAGGED) for other in _NOT_IN_NAMES
    )


def _has_choices(settings: Settings) -> bool:
    """Whether Hydra knows the group members of these settings. It does not for the rows of a table."""
    return HydraConfig.initialized() and settings.command == HydraConfig.get().job.config_name


def _sweep_name() -> str | None:
    """The folder of the sweep that the run belongs to, such as "multirun/evaluate"; None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return "/".join(Path(HydraConfig.get().sweep.dir).absolute().parts[-2:])


def run_tags(settings: Settings) -> list[str]:
    """Short tags of the config: the chosen group members, or else the names of classes.

    Group members are unknown outside a command, and for the rows of a table.
    """
    if _has_choices(settings):
        choices = HydraConfig.get().runtime.choices
        return [f"{group}={choices[group]}" for group in _TAGGED if choices.get(group)]
    parts = (settings.sampler.get("order"), settings.cache)
    targets = [part["_target_"] for part in parts if isinstance(part, dict) and "_target_" in part]
    return [settings.model.name, *(target.rsplit(".", 1)[-1] for target in targets)]
