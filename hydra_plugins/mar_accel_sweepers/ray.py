"""``hydra/launcher=ray``: every run is a Ray task, on this machine or on a cluster.

The published launcher for Ray needs cloudpickle below 3, so this one calls Ray itself.
"""

# Hydra executes this module before it is known by its name, so annotations must not be text.
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf, open_dict


@dataclass
class RayConf:
    """The node ``hydra.launcher``.

    Attributes:
        init: arguments of ``ray.init``. ``address: auto`` joins a running cluster; without it, Ray starts on
            this machine. ``num_cpus`` limits how many runs it makes at a time.
        remote: resources of a run. ``num_gpus: 1`` gives each one a GPU of its own.
    """

    _target_: str = "hydra_plugins.mar_accel_sweepers.ray.RayLauncher"
    init: dict[str, Any] = field(
        default_factory=lambda: {"address": None, "num_cpus": None, "include_dashboard": False}
    )
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "num_gpus": 0})


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConf, provider="mar_accel")


class RayLauncher(Launcher):
    """Runs jobs as Ray tasks.

    Args:
        init: arguments of ``ray.init``, such as ``address: auto`` for a running cluster.
        remote: resources of every task, such as ``num_cpus`` and ``num_gpus``. Ray sets CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]):
        self.init, self.remote = _plain(init), _plain(remote)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import ray

        setup_globals()
        started_here = not ray.is_initialized()
        if started_here:
            ray.init(**self.init)
        try:
            # Every job has a process of its own, so that its memory and its GPU are free afterwards.
            remote = ray.remote(max_calls=1, max_retries=0, **self.remote)(_run)
            state = Singleton.get_state()
            common = (os.getcwd(), self.hydra_context, self.task_function, self.config, state)
            jobs = [
                remote.remote(*common, list(own), number)
                for number, own in enumerate(job_overrides, initial_job_idx)
            ]
            return [_outcome(ray, job) for job in jobs]
        finally:
            if started_here:
                ray.shutdown()


def _run(
    folder: str, context: Any, task: Any, config: Any, state: Any, overrides: list[str], number: int
) -> JobReturn:
    """One job, in a process of Ray.

    Processes of a running cluster start in the folder in which Ray was started there. Relative paths and
    one's own classes are those of the sweep's working directory.
    """
    from mar_accel.runs.task import prepare_process

    os.chdir(folder)
    prepare_process()
    setup_globals()
    Singleton.set_state(state)
    job_config = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _outcome(ray: Any, job: Any) -> JobReturn:
    """What a job returned. A job whose process has died does not stop the others."""
    from hydra.core.utils import JobStatus

    try:
        return ray.get(job)
    except ray.exceptions.RayError as error:
        failed = JobReturn(status=JobStatus.FAILED)
        failed.return_value = error
        return failed


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(values, resolve=True) if OmegaConf.is_config(values) else dict(values)
    return plain
