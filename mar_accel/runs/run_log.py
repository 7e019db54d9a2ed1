"""What a run tells its logger: the config before it samples, and its results once they are on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from mar_accel.config.settings import Settings
from mar_accel.runs.loggers import open_logger
from mar_accel.utils import markdown

P = ParamSpec("P")

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
