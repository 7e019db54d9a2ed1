"""Who has started this process: the user, torchrun or srun; and what its processes have to agree on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.processes import is_further_process
from mar_accel.utils.ranks import set_rank

# Lightning reads its rank from the first of these that is set.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
_INTERACTIVE = ("bash", "interactive")
# Commands that share their work among the processes of a launcher.
_SHARING = ("generate", "evaluate", "train")


@dataclass(frozen=True)
class Launch:
    """What a launcher has started.

    Attributes:
        by: the launcher, for messages.
        num_processes: number of processes on all machines. None: Lightning's setting counts.
        certain: whether this is one of the processes, and not a script beside them.
    """

    by: str
    num_processes: int | None
    certain: bool = True


def launch() -> Launch | None:
    """The launch that this process belongs to; None if the user or our own run has started it.

    A variable alone, such as RANK=1 of an earlier job, is no launch.
    """
    environment = os.environ
    if is_further_process():
        return None
    if {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"} <= environment.keys():
        return Launch("torchrun", _number("WORLD_SIZE"))
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        # A batch script sees the variables of its job, too; it is no task of srun.
        in_step = "SLURM_STEP_ID" in environment or environment.get("SLURM_PROCID", "0") != "0"
        return Launch("srun", _number("SLURM_NTASKS"), in_step)
    if {"LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        return Launch("LOCAL_RANK", None)
    return None


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise ConfigError(
            f"the variable {name} must be a number, got {os.environ[name]}; unset it."
        ) from None


def refuse_sweeps(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a sweep in several processes of a launcher, which would all make every run."""
    sweeps = {"-m", "--multirun"} & {*arguments}
    if sweeps and (found := launch()) is not None and found.certain and (found.num_processes or 1) > 1:
        raise ConfigError(
            f"a sweep (-m) starts as one process, but {found.by} has started {found.num_processes}; start it "
            "alone with trainer.devices, or use a launcher of Hydra."
        )


def join_launch(settings: Settings) -> Settings:
    """Connect with the other processes of a launcher, and take over the run folder of the first one.

    The default folder is named by the time, so each process would have its own.

    Raises:
        ConfigError: the launcher has started another number of processes than the trainer needs.
    """
    found = launch()
    if found is None:
        _refuse_half_a_launch(settings)
        if any(name in os.environ for name in _RANKS) and not is_further_process():
            set_rank(0)
        return settings
    from mar_accel.inference.trainer import trainer_or_config_error

    trainer = trainer_or_config_error(**settings.trainer.lightning, logger=False, enable_checkpointing=False)
    # Under a launcher, world_size is what it has started.
    needed = trainer.num_devices * trainer.num_nodes
    if needed == 1 and not found.certain:
        set_rank(0)
        return settings
    if found.num_processes not in (None, needed):
        raise ConfigError(
            f"{found.by} has started {found.num_processes} process(es), but trainer.devices × "
            f"trainer.num_nodes is {needed}; make them equal, or start the command without {found.by}."
        )
    if needed == 1:
        set_rank(0)
        return settings
    if settings.command not in _SHARING:
        raise ConfigError(
            f"mar_accel.{settings.command} runs in one process, but {found.by} has started {needed}; start "
            f"it without {found.by}."
        )
    _check_layout(trainer, found.by)
    trainer.strategy.setup_environment()
    return settings.with_(output_dir=trainer.strategy.broadcast(settings.output_dir))


def _check_layout(trainer: object, by: str) -> None:
    """Raise ConfigError where the launcher has divided the processes among machines in another way."""
    strategy = trainer.strategy  # type: ignore[attr-defined]
    devices, nodes = trainer.num_devices, trainer.num_nodes  # type: ignore[attr-defined]
    try:
        strategy.cluster_environment.validate_settings(num_devices=devices, num_nodes=nodes)
    except ValueError as error:
        raise ConfigError(
            f"{by} does not fit trainer.devices={devices} and trainer.num_nodes={nodes}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _refuse_half_a_launch(settings: Settings) -> None:
    """Raise ConfigError where Lightning would wait for processes that nobody starts."""
    alone = "LOCAL_RANK" in os.environ and not is_further_process()
    if alone and settings.trainer.devices not in (1, "1") and settings.command in _SHARING:
        raise ConfigError(
            "the variable LOCAL_RANK is set, but MASTER_ADDR and MASTER_PORT are not, so the processes would "
            "wait for each other; unset it, or start the command with torchrun."
        )
