"""Typed settings: what a composed config becomes at the door, for every group and every command.

Below the door nothing reads a DictConfig. Objects (sampler, cache, features, …) stay described by a node with
a ``_target_`` until :mod:`mar_accel.inference.build` makes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from mar_accel.errors import ConfigError

T = TypeVar("T")
Node = dict[str, Any]
Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]

# Keys of Lightning's Trainer that mean something in a training only.
TRAINING_ONLY = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
    *("limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval", "fast_dev_run"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "reload_dataloaders_every_n_epochs", "log_every_n_steps"),
    *("enable_checkpointing", "enable_model_summary", "sync_batchnorm", "enable_autolog_hparams"),
)
# Strategies that start processes without a command line: they cannot be told which run they belong to.
FORKING = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def checked(cls: type[T]) -> type[T]:
    """Let a dataclass refuse unknown keys, other types and NaN where a config is read."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return cls


@checked
@dataclass(frozen=True)
class ModelSettings:
    """The group ``model``.

    Attributes:
        name: of the model; names run folders.
        weights: a file, a folder, a Hub repository id, an embedded model or "random".
        ema: take the averaged weights of a checkpoint.
        sampling: what samplers and caches use unless told otherwise, handed on whole.
        architecture: sizes; see :class:`mar_accel.models.mar.MARConfig`.
        autoencoder: node of the autoencoder.
        text_encoder: sizes of the text encoder; None: the model takes labels.
    """

    name: str
    architecture: dict[str, Any]
    autoencoder: Node
    weights: str | None = None
    ema: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise ConfigError(f"model.name must be a plain name without slashes, got {self.name!r}.")


@checked
@dataclass(frozen=True)
class DatasetSettings:
    """The group ``dataset``.

    Attributes:
        num_images: how many images are sampled. num_classes: classes of the model; 1 for models of text.
        labels: a label or labels, repeated in turn; None: all classes in turn.
        images_per_class: consecutive samples of a label.
        training_data: node of a LightningDataModule; None: nothing to train on.
        path: folder of one's own images (dataset=folder).
    """

    name: str
    num_images: Positive
    num_classes: Positive = 1
    labels: int | list[int] | None = None
    images_per_class: Positive = 1
    training_data: Node | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.labels == []:
            raise ConfigError("dataset.labels is empty; give at least one label, or null for all classes.")
        for label in self.label_list:
            if not 0 <= label < self.num_classes:
                raise ConfigError(
                    f"dataset.labels must be classes of the model, 0 to {self.num_classes - 1}, got {label}."
                )

    @property
    def label_list(self) -> list[int]:
        """The labels that are repeated in turn."""
        if self.labels is None:
            return list(range(self.num_classes))
        return [self.labels] if isinstance(self.labels, int) else self.labels


@checked
@dataclass(frozen=True)
class TrainerSettings:
    """The group ``trainer``: keys of Lightning's Trainer, and ``batch_size``.

    Attributes:
        batch_size: images that a device samples at a time.
        limit_predict_batches: batches per device, or a share of them; lowers the number of images.
    """

    batch_size: Positive = 16
    accelerator: str = "cpu"
    devices: Positive | Literal["auto", -1] | str | list[Count] = 1
    num_nodes: Positive = 1
    strategy: str = "auto"
    precision: str | int = "32-true"
    limit_predict_batches: int | float | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    use_distributed_sampler: bool = True
    inference_mode: bool = True
    profiler: str | None = None
    plugins: str | list[str] | None = None

    def __post_init__(self) -> None:
        if self.strategy in FORKING:
            raise ConfigError(
                f"trainer.strategy={self.strategy} starts processes without a command line, which runs need; "
                "use trainer.strategy=ddp."
            )
        limit = self.limit_predict_batches
        if limit is not None and (limit <= 0 or (isinstance(limit, float) and limit > 1)):
            raise ConfigError(
                "trainer.limit_predict_batches must be a number of batches ≥ 1, or a share above 0.0 and at "
                f"most 1.0, got {limit}."
            )

    @property
    def lightning(self) -> dict[str, Any]:
        """Arguments of Lightning's Trainer; the number of images carries ``limit_predict_batches``."""
        own = ("batch_size", "limit_predict_batches")
        return {key: value for key, value in asdict(self).items() if key not in own}


@checked
@dataclass(frozen=True)
class GenerateSettings:
    """The node ``generate``: ``resume`` keeps the images that an earlier run of the same config left."""

    resume: bool = False


@checked
@dataclass(frozen=True)
class EvaluateSettings:
    """The node ``evaluate``.

    Attributes:
        images: None to sample; else a folder of images, an .npz or a run folder.
        fidelity_images: how many images are compared with the unaccelerated ones; 0: none.
        baseline: "generate" samples the unaccelerated images, "none" goes without, else their run folder.
        baseline_sampler: keys of the unaccelerated sampler; None: as in ``sampler=mar``.
        baseline_dir: folder in which evaluations share the unaccelerated images; None: none.
        timing_rounds: interleaved rounds of this config and the baseline; 0: no speedup.
        lpips: measure the perceptual distance too; needs torchvision.
        profile: sample one more batch to find where the time goes.
        save_images: keep every image, and not only the grid.
        resume: keep the images that an earlier run of the same config left.
        objective: the metric that an optimising sweeper gets.
    """

    images: str | None = None
    fidelity_images: Count = 64
    baseline: str = "generate"
    baseline_sampler: dict[str, Any] = field(
        default_factory=lambda: {"num_iter": None, "num_diffusion_steps": None}
    )
    baseline_dir: str | None = None
    timing_rounds: Count = 3
    lpips: bool = False
    profile: bool = True
    save_images: bool = True
    resume: bool = False
    objective: str = "fid"

    @property
    def baseline_folder(self) -> str | None:
        """The run folder with the unaccelerated images, where one was named."""
        return None if self.baseline in ("generate", "none") else self.baseline


@checked
@dataclass(frozen=True)
class TableSettings:
    """The node ``table`` of evaluate_table.

    Attributes:
        rows: a YAML file that lists {name, overrides}. only: names of the rows to evaluate; None: all.
        timing_rounds: rounds in which every row samples one batch. timing_batch_size: its images; None:
            trainer.batch_size.
        strip_images: images of each row in the picture.
    """

    rows: str = "experiments/readme_table/rows.yaml"
    only: list[str] | None = None
    timing_rounds: Positive = 5
    timing_batch_size: Positive | None = None
    strip_images: Positive = 10


@checked
@dataclass(frozen=True)
class BenchmarkSettings:
    """The node ``benchmark``.

    Attributes:
        variants: name to overrides of model, sampler and cache; the first is what others are compared with.
        only: names of the variants to time; None: all.
        rounds: interleaved rounds. warmup_rounds: rounds before them that do not count.
        autoencoder: whether the autoencoder's time is included.
    """

    variants: dict[str, list[str]] = field(default_factory=dict)
    only: list[str] | None = None
    rounds: Positive = 5
    warmup_rounds: Count = 1
    autoencoder: bool = False


@checked
@dataclass(frozen=True)
class PlanSettings:
    """The node ``plan``: ``flops`` counts the FLOPs of every AR step."""

    flops: bool = True


@checked
@dataclass(frozen=True)
class CalibrateSettings:
    """The node ``calibrate``.

    Attributes:
        speedup: wanted, in counted FLOPs. drift_factor: drift allowed between refreshes, in tolerances.
        warmup_steps: the AR steps before this one, and this one, are refreshes.
    """

    speedup: Annotated[float, Gt(1)] = 2.5
    drift_factor: Annotated[float, Gt(0)] = 3.0
    warmup_steps: Count = 1


@checked
@dataclass(frozen=True)
class RedundancySettings:
    """The node ``redundancy``.

    Attributes:
        prune_block: decoder block whose values are compared, or "auto".
        head_every: AR steps from one whose chains are probed to the next; None: never.
        head_period: timesteps from a refresh to the next.
    """

    prune_block: Count | Literal["auto"] = "auto"
    head_every: Positive | None = 8
    head_period: Annotated[int, Ge(2)] = 7


@checked
@dataclass(frozen=True)
class TrainingSettings:
    """The node ``training`` of train.

    Attributes:
        max_steps: optimiser steps. batch_size: images per step.
        learning_rate, weight_decay: of AdamW (betas 0.9, 0.95). warmup_steps: of linear warm-up.
        decay_fraction: share of the steps, at the end, of linear decay to zero.
        ema_decay: decay of the averaged weights, which are what is sampled.
        label_drop: probability that a label or a text gives way to the unconditional embedding.
        mask_ratio_min: smallest share of masked tokens (MAR, section 4).
        gradient_clip: largest gradient norm.
        timestep_draws: noised versions of each masked token in a step (4 in MAR); the head sees all of them,
            the backbone runs once.
        checkpoint_every: steps between checkpoints.
        resume: checkpoint to continue from, "last" for the newest of this output_dir, or None.
        initial_weights: model folder to begin with in place of random weights; steps count from 0.
    """

    max_steps: Positive = 10000
    batch_size: Positive = 32
    learning_rate: Annotated[float, Ge(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.02
    warmup_steps: Count = 200
    decay_fraction: Share = 0.3
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    label_drop: Share = 0.1
    mask_ratio_min: Share = 0.7
    gradient_clip: Annotated[float, Ge(0)] = 3.0
    timestep_draws: Positive = 1
    checkpoint_every: Positive = 500
    resume: str | None = "last"
    initial_weights: str | None = None


@checked
@dataclass(frozen=True)
class FeatureTrainingSettings:
    """The node ``feature_training`` of train_features.

    Attributes:
        epochs: passes over the scans. batch_size: scans per step.
        learning_rate: peak of a one-cycle schedule of AdamW. weight_decay: of AdamW.
        held_out: share of the scans kept for measuring.
    """

    epochs: Positive = 60
    batch_size: Positive = 64
    learning_rate: Annotated[float, Gt(0)] = 2e-3
    weight_decay: Annotated[float, Ge(0)] = 0.05
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.2


@checked
@dataclass(frozen=True)
class Settings:
    """A whole config. Nodes of other commands have their defaults.

    Attributes:
        command: which command's config it is. seed: with the sample index it decides an image.
        output_dir: the run folder.
        callbacks, metrics: nodes by name: Lightning callbacks, and torchmetrics besides the built-in numbers.
        dtype: of the weights that convert saves.
    """

    command: str
    model: ModelSettings
    dataset: DatasetSettings
    sampler: Node
    cache: Node
    seed: Count = 0
    output_dir: str = ""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    callbacks: dict[str, Node | None] = field(default_factory=dict)
    logger: Node = field(default_factory=dict)
    features: Node = field(default_factory=dict)
    reference: Node = field(default_factory=dict)
    metrics: dict[str, Node | None] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    table: TableSettings = field(default_factory=TableSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    calibrate: CalibrateSettings = field(default_factory=CalibrateSettings)
    redundancy: RedundancySettings = field(default_factory=RedundancySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    feature_training: FeatureTrainingSettings = field(default_factory=FeatureTrainingSettings)

    def __post_init__(self) -> None:
        if self.output_dir.strip() in ("", "."):
            raise ConfigError("output_dir must name a folder of its own, got an empty path; give a folder.")

    def plain(self) -> dict[str, Any]:
        """Plain values: what is recorded, logged and handed to further processes.

        Nodes of other commands are left out.
        """
        others = {*COMMAND_NODES.values()} - {self.command}
        if self.command not in COMMAND_NODES.values():
            others = set()
        elif self.command == "evaluate_table":
            others.remove("evaluate")
        return {key: value for key, value in asdict(self).items() if COMMAND_NODES.get(key) not in others}

    def with_(self, **nodes: Any) -> Settings:
        """The same with other values; a dict for a node with settings changes only these."""
        changes = {
            key: replace(getattr(self, key), **value) if isinstance(value, dict) and _is_typed(key) else value
            for key, value in nodes.items()
        }
        return replace(self, **changes)


# Nodes of single commands; each is refused on the command line of the others.
COMMAND_NODES = {
    "generate": "generate",
    "evaluate": "evaluate",
    "table": "evaluate_table",
    "benchmark": "benchmark",
    "plan": "plan",
    "calibrate": "calibrate",
    "redundancy": "redundancy",
    "training": "train",
    "feature_training": "train_features",
    "dtype": "convert",
}


def _is_typed(key: str) -> bool:
    return key in ("model", "dataset", "trainer") or (key in COMMAND_NODES and key != "dtype")
