"""Typed settings: the form of a composed config, for every group and every command.

No other code reads a DictConfig.
Objects such as sampler and cache are described by a node with a ``_target_``.
:mod:`mar_accel.inference.build` creates them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from mar_accel.errors import ConfigError

T = TypeVar("T")
Node = dict[str, Any]
Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]

# Keys of Lightning's Trainer that only apply to training.
TRAINING_ONLY = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
    *("limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval", "fast_dev_run"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "reload_dataloaders_every_n_epochs", "log_every_n_steps"),
    *("enable_checkpointing", "enable_model_summary", "sync_batchnorm", "enable_autolog_hparams"),
)
# Lightning's short names of precisions.
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
# Strategies that start processes without a command line, which could not know their run.
FORKING = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def checked(cls: type[T]) -> type[T]:
    """Make a dataclass reject unknown keys, wrong types and NaN when a config is read."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return cls


@checked
@dataclass(frozen=True)
class ModelSettings:
    """The group ``model``.

    Attributes:
        name: name of the model, used in the names of run folders.
        architecture: sizes; see :class:`mar_accel.models.mar.MARConfig`.
        autoencoder: node of the autoencoder.
        weights: a file, a folder, a Hub repository id, an embedded model or "random".
        ema: use the averaged weights of a checkpoint.
        sampling: the model's defaults for samplers and caches, by name.
        text_encoder: sizes of the text encoder. None: the model is conditioned on labels.
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
        name: name of the dataset.
        num_images: number of images to sample.
        num_classes: number of classes of the model; 1 for text models.
        labels: a label, or a list of labels that is repeated. None: all classes in turn.
        images_per_class: number of consecutive samples with the same label.
        training_data: node of a LightningDataModule. None: there is no training data.
        path: folder of the user's own images (dataset=folder).
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
            raise ConfigError("dataset.labels is empty; set at least one label, or null for all classes.")
        for label in self.label_list:
            if not 0 <= label < self.num_classes:
                raise ConfigError(
                    f"dataset.labels must be classes of the model, 0 to {self.num_classes - 1}, got {label}."
                )

    @property
    def label_list(self) -> list[int]:
        """The labels that are repeated."""
        if self.labels is None:
            return list(range(self.num_classes))
        return [self.labels] if isinstance(self.labels, int) else self.labels


@checked
@dataclass(frozen=True)
class TrainerSettings:
    """The group ``trainer``: keys of Lightning's Trainer, and ``batch_size``.

    Attributes:
        batch_size: number of images that a device samples at a time.
        precision: the precision that is run, by its full name.
            Short names are replaced. So is 16-mixed on a CPU, where Lightning runs bf16-mixed.
        limit_predict_batches: largest number of batches per device, or their share.
            It lowers the number of images.
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
    # Lightning takes objects here, which a config cannot name.
    plugins: None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self._precision())
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

    def _precision(self) -> str | int:
        precision = PRECISIONS.get(str(self.precision), self.precision)
        return "bf16-mixed" if precision == "16-mixed" and self._on_cpu() else precision

    def _on_cpu(self) -> bool:
        if self.accelerator != "auto":
            return self.accelerator == "cpu"
        import torch

        return not (torch.cuda.is_available() or torch.backends.mps.is_available())

    @property
    def lightning(self) -> dict[str, Any]:
        """Arguments of Lightning's Trainer, without ``batch_size`` and ``limit_predict_batches``."""
        own = ("batch_size", "limit_predict_batches")
        return {key: value for key, value in asdict(self).items() if key not in own}


@checked
@dataclass(frozen=True)
class GenerateSettings:
    """The node ``generate``.

    Attributes:
        resume: keep the images of an earlier run of the same config.
    """

    resume: bool = False


@checked
@dataclass(frozen=True)
class EvaluateSettings:
    """The node ``evaluate``.

    Attributes:
        images: a folder of images, an .npz or a run folder. None: images are sampled.
        fidelity_images: number of images that are compared with the unaccelerated ones. 0: none.
        baseline: the unaccelerated images: "generate" (sample them), "none", or a run folder.
        baseline_sampler: keys that replace those of ``sampler=mar`` in the baseline; None values do not.
        baseline_dir: folder through which evaluations share the unaccelerated images. None: no sharing.
        timing_rounds: interleaved rounds of this config and the baseline. 0: no speedup.
        lpips: also measure LPIPS; needs torchvision.
        profile: sample one more batch to measure the time of each component.
        save_images: save all images, not only the grid.
        resume: keep the images of an earlier run of the same config.
        objective: the metric that is returned to an optimising sweeper.
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
        """The run folder with the unaccelerated images; None if ``baseline`` names no folder."""
        return None if self.baseline in ("generate", "none") else self.baseline


@checked
@dataclass(frozen=True)
class TableSettings:
    """The node ``table`` of evaluate_table.

    Attributes:
        rows: path of a YAML list of {name, overrides}.
        only: names of the rows to evaluate. None: all rows.
        timing_rounds: number of rounds in which each row samples one batch.
        timing_batch_size: images per batch in these rounds. None: trainer.batch_size.
        strip_images: number of images of each row in the picture.
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
        variants: overrides of model, sampler and cache by name; others are compared with the first.
        only: names of the variants to time. None: all variants.
        rounds: number of interleaved rounds.
        warmup_rounds: number of rounds before them that do not count.
        autoencoder: whether the time of the autoencoder is included.
    """

    variants: dict[str, list[str]] = field(
        default_factory=lambda: {
            "mar": ["sampler=mar", "cache=none"],
            "gtr": ["sampler=gtr", "cache=none"],
            "gtr_18": ["sampler=gtr_18", "cache=none"],
            "lazymar": ["sampler=mar", "cache=lazymar"],
            "gtr_18+lazymar": ["sampler=gtr_18", "cache=lazymar"],
        }
    )
    only: list[str] | None = None
    rounds: Positive = 5
    warmup_rounds: Count = 1
    autoencoder: bool = False


@checked
@dataclass(frozen=True)
class PlanSettings:
    """The node ``plan``.

    Attributes:
        flops: count the FLOPs of each AR step.
    """

    flops: bool = True


@checked
@dataclass(frozen=True)
class CalibrateSettings:
    """The node ``calibrate``.

    Attributes:
        flops_ratio: target for the counted FLOPs without a cache divided by those with it; > 1.
        drift_factor: allowed drift between refreshes, as a multiple of the tolerance; > 0.
        warmup_steps: AR steps 0 to this one are refreshes.
    """

    flops_ratio: Annotated[float, Gt(1)] = 2.5
    drift_factor: Annotated[float, Gt(0)] = 3.0
    warmup_steps: Count = 1


@checked
@dataclass(frozen=True)
class RedundancySettings:
    """The node ``redundancy``.

    Attributes:
        prune_block: decoder block whose values are compared, or "auto".
        head_every: the chains of one in every ``head_every`` AR steps are probed. None: never.
        head_period: number of timesteps from one refresh to the next; at least 2.
    """

    prune_block: Count | Literal["auto"] = "auto"
    head_every: Positive | None = 8
    head_period: Annotated[int, Ge(2)] = 7


@checked
@dataclass(frozen=True)
class TrainingSettings:
    """The node ``training`` of train.

    Attributes:
        max_steps: number of optimiser steps.
        batch_size: images per step.
        learning_rate: learning rate of AdamW (betas 0.9, 0.95).
        weight_decay: weight decay of AdamW.
        warmup_steps: number of linear warm-up steps.
        decay_fraction: share of the steps at the end with linear decay to zero; 0..1.
        ema_decay: decay of the averaged weights, which are used for sampling.
        label_drop: probability that a label or text is replaced by the unconditional embedding.
        mask_ratio_min: smallest share of masked tokens (MAR, section 4).
        gradient_clip: largest gradient norm.
        timestep_draws: noised versions of each masked token per step (4 in MAR).
            The head processes all of them; the backbone runs once.
        checkpoint_every: number of steps between checkpoints.
        resume: checkpoint to resume from, "last" for the newest in output_dir, or None.
        initial_weights: model folder to start from instead of random weights; steps count from 0.
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
        epochs: number of passes over the scans.
        batch_size: scans per step.
        learning_rate: peak learning rate of AdamW in a one-cycle schedule.
        weight_decay: weight decay of AdamW.
        held_out: share of the scans that are only used to measure the accuracy.
    """

    epochs: Positive = 60
    batch_size: Positive = 64
    learning_rate: Annotated[float, Gt(0)] = 2e-3
    weight_decay: Annotated[float, Ge(0)] = 0.05
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.2


@checked
@dataclass(frozen=True)
class Settings:
    """A whole config; nodes of other commands have their defaults.

    Attributes:
        command: the command that the config belongs to.
        sampler, cache, features, reference, logger: nodes of objects.
        seed: together with the sample index it determines class and noise of an image.
        output_dir: the run folder.
        callbacks: nodes of Lightning callbacks by name.
        metrics: nodes of torchmetrics by name, besides the built-in metrics.
        dtype: dtype of the weights that convert saves.
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
        # "", ".", ".." and the like: images would be scattered over a folder of other things.
        if all(part == ".." for part in Path(self.output_dir.strip()).parts):
            raise ConfigError(
                f"output_dir must name a separate folder, got {self.output_dir!r}; "
                "choose a folder for this run."
            )
        classes = self.model.architecture.get("num_classes", self.dataset.num_classes)
        if isinstance(classes, int) and self.dataset.num_classes > classes:
            raise ConfigError(
                f"dataset.num_classes must be at most {classes}, the classes of model={self.model.name}, got "
                f"{self.dataset.num_classes}."
            )

    def plain(self) -> dict[str, Any]:
        """Plain values for records, logs and further processes, without nodes of other commands."""
        others = {*COMMAND_NODES.values()} - {self.command}
        if self.command not in COMMAND_NODES.values():
            others = set()
        elif self.command == "evaluate_table":
            others.remove("evaluate")
        return {key: value for key, value in asdict(self).items() if COMMAND_NODES.get(key) not in others}

    def with_(self, **nodes: Any) -> Settings:
        """A copy with other values; a dict for a typed node changes only its keys.

        Example:
            >>> settings.with_(seed=1, trainer={"batch_size": 4})
        """
        changes = {
            key: replace(getattr(self, key), **value) if isinstance(value, dict) and _is_typed(key) else value
            for key, value in nodes.items()
        }
        return replace(self, **changes)


# Nodes of single commands. Each one is rejected on the command line of other commands.
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


def training_only(key: str) -> str:
    """The sentence about a key of the Trainer that only applies to training."""
    return f"{key} only applies to training; remove it, or use a key of the node training."


def foreign_key(key: str, command: str) -> str | None:
    """The sentence about a key of another command than ``command``; None if the key is not one."""
    node = key.partition(".")[0]
    owner = COMMAND_NODES.get(node, command)
    if owner == command or (command, owner) == ("evaluate_table", "evaluate"):
        return None
    return f"{node} belongs to mar_accel.{owner} and has no effect in mar_accel.{command}; remove it."
