"""Typed settings: the form of a composed config, for every group and every command.

No other code reads a DictConfig.
Objects such as sampler and cache are described by a node with a ``_target_``.
:mod:`mar_accel.inference.build` creates them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mar_accel.config.overrides import split_outside
from mar_accel.errors import ConfigError

T = TypeVar("T")
Node = dict[str, Any]
# Python counts further than its own ranges and torch, which fail above this.
_MOST = 10**15
Count = Annotated[int, Ge(0), Le(_MOST)]
Positive = Annotated[int, Ge(1), Le(_MOST)]
Share = Annotated[float, Ge(0), Le(1)]
# The seed of torch's generators is an integer of 64 bits.
Seed = Annotated[int, Ge(0), Lt(2**63)]
# More devices than any machine has; a list of all is made before they are counted.
Devices = Annotated[int, Ge(1), Le(1024)]
# An empty path would be the working directory.
Text = Annotated[str, MinLen(1)]

# Keys of Lightning's Trainer that only apply to training.
TRAINING_ONLY = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
    *("limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval", "fast_dev_run"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "reload_dataloaders_every_n_epochs", "log_every_n_steps"),
    *("enable_checkpointing", "enable_model_summary", "sync_batchnorm", "enable_autolog_hparams"),
)
# Lightning's precisions, and its short names of some.
PRECISIONS = (
    *("32-true", "bf16-true", "16-true", "64-true", "bf16-mixed", "16-mixed"),
    *("transformer-engine", "transformer-engine-float16"),
)
# Value of model.weights for the weights that their authors put on the Hub.
PUBLISHED = "published"
SHORT_PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
# In the names of strategies that start processes without a command line, which could not know their run.
FORKING = ("spawn", "fork", "notebook")


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
            "published": those of ``published``.
        published: where the published weights are on the Hub. ``weights`` is a Hub repository id or
            ``owner/name:file@revision``; ``autoencoder`` has keys of the autoencoder's node.
        ema: use the averaged weights of a checkpoint.
        sampling: the model's defaults for samplers and caches, by name.
        text_encoder: node of the text encoder, or sizes of one that is trained with the model.
            None: the model is conditioned on labels.
        image_size: height and width in pixels, or one number for both, in place of ``architecture.grid``.
    """

    name: str
    architecture: dict[str, Any]
    autoencoder: Node
    weights: Text | None = None
    ema: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] | None = None
    image_size: Positive | list[Positive] | None = None
    published: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._find_published()
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise ConfigError(f"model.name must be a plain name without slashes, got {self.name!r}.")

    def _find_published(self) -> None:
        """Replace "published" by the places on the Hub, in weights and autoencoder."""
        there = self.published or {}
        if self.weights == PUBLISHED:
            if "weights" not in there:
                raise ConfigError(
                    f"model.weights={PUBLISHED}: no published weights of model={self.name} are known on the "
                    "Hub; set model.weights to a file (docs/checkpoints.md)."
                )
            object.__setattr__(self, "weights", there["weights"])
        if self.autoencoder.get("weights") == PUBLISHED:
            if "autoencoder" not in there:
                raise ConfigError(
                    f"model.autoencoder.weights={PUBLISHED}: no published autoencoder of model={self.name} "
                    "is known on the Hub; set it to a file (docs/checkpoints.md)."
                )
            object.__setattr__(self, "autoencoder", {**self.autoencoder, **there["autoencoder"]})


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
        path: folder of the user's own images (dataset=folder). Files of prompts are read into ``prompts``.
        prompts: the prompts of a text-to-image model. None: the model takes labels.
        num_images_per_prompt: number of consecutive samples of each prompt.
        prompt_column: column or key of the prompts in a .csv or .jsonl file.
        prompt_source: import path of a function that makes a number of prompts. None: they are given.
        metadata: lines of GenEval's metadata, one for each prompt.
        images: image file or folder whose masked parts are sampled (dataset=inpaint). None: whole images.
        mask: what is masked: a name such as center, an image file or a folder (white is masked).
        keep_pixels: whether the pixels outside the mask are those of the given image.
    """

    name: str
    num_images: Positive
    num_classes: Positive = 1
    labels: int | list[int] | None = None
    images_per_class: Positive = 1
    training_data: Node | None = None
    path: Text | None = None
    prompts: list[str] | None = None
    num_images_per_prompt: Positive = 1
    prompt_column: Text = "prompt"
    prompt_source: str | None = None
    metadata: list[str] | None = None
    images: Text | None = None
    mask: Text | None = None
    keep_pixels: bool = True

    def __post_init__(self) -> None:
        if self.images is None and (self.mask is not None or not self.keep_pixels):
            key = "mask" if self.mask is not None else "keep_pixels"
            raise ConfigError(
                f"dataset.images is not set, and dataset.{key} is about them; give an image file or a folder."
            )
        if self.labels == []:
            raise ConfigError("dataset.labels is empty; set at least one label, or null for all classes.")
        for label in [] if self.labels is None else self.label_list:
            if not 0 <= label < self.num_classes:
                raise ConfigError(
                    f"dataset.labels must be classes of the model, 0 to {self.num_classes - 1}, got {label}."
                )

    @property
    def label_list(self) -> Sequence[int]:
        """The labels that are repeated; numbers of prompts where there are prompts."""
        if self.prompts is not None:
            return range(len(self.prompts))
        if self.labels is None:
            return range(self.num_classes)
        return [self.labels] if isinstance(self.labels, int) else self.labels

    @property
    def images_per_label(self) -> int:
        """Number of consecutive samples with the same label or prompt."""
        return self.images_per_class if self.prompts is None else self.num_images_per_prompt

    def name_of(self, label: int) -> str:
        """What a label stands for, for captions: the prompt, or the class."""
        if self.prompts is not None:
            return self.prompts[label].strip() or "(empty prompt)"
        return f"class {label}"


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
    devices: Devices | Literal["auto", -1] | str | list[Count] = 1
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
        if any(word in self.strategy for word in FORKING):
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
        precision = SHORT_PRECISIONS.get(str(self.precision), self.precision)
        if precision not in PRECISIONS:
            known = ", ".join((*PRECISIONS, *SHORT_PRECISIONS))
            raise ConfigError(f"trainer.precision must be one of {known}, got {self.precision!r}.")
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


# How the images of a run lie on disk; see mar_accel.data.shards.FORMATS.
ImageFormat = Literal["png", "npz", "webdataset"]


@checked
@dataclass(frozen=True)
class GenerateSettings:
    """The node ``generate``.

    Attributes:
        resume: keep the images of an earlier run of the same config; always true in a sweep (-m).
        format: "png", "npz" (one file with all images, as ADM's evaluator reads) or "webdataset" (tar files).
    """

    resume: bool = False
    format: ImageFormat = "png"


@checked
@dataclass(frozen=True)
class EvaluateSettings:
    """The node ``evaluate``.

    Attributes:
        images: a folder of images, an .npz or a run folder. None: images are sampled.
        fidelity_images: number of images that are compared with the unaccelerated ones. 0: none.
        baseline: the unaccelerated images: "generate" (sample them), "none", or a run folder.
        baseline_sampler: keys that replace those of ``sampler=mar`` in the baseline; None values do not.
        baseline_dir: folder through which evaluations on one device share the unaccelerated images.
            None: no sharing; in a sweep (-m), a folder inside the sweep's folder.
        timing_rounds: interleaved rounds of this config and the baseline. 0: no speedup.
        lpips: also measure LPIPS against the unaccelerated images; needs torchvision.
        profile: sample one more batch to measure the time of each component.
        save_images: save all images, not only the grid.
        format: format of the saved images, with the values of generate.format.
        resume: keep the images of an earlier run of the same config; always true in a sweep (-m).
        objective: the metric that is returned to an optimising sweeper, or several for a search.
    """

    images: Text | None = None
    fidelity_images: Count = 64
    baseline: Text = "generate"
    baseline_sampler: dict[str, Any] = field(
        default_factory=lambda: {"num_iter": None, "num_diffusion_steps": None}
    )
    baseline_dir: Text | None = None
    timing_rounds: Count = 3
    lpips: bool = False
    profile: bool = True
    save_images: bool = True
    format: ImageFormat = "png"
    resume: bool = False
    objective: str | list[str] = "fid"

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ConfigError("evaluate.objective is empty; name at least one metric.")

    @property
    def objectives(self) -> list[str]:
        """The metrics that an optimising sweeper gets, in their order."""
        return [self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def baseline_folder(self) -> str | None:
        """The run folder with the unaccelerated images; None if ``baseline`` names no folder."""
        return None if self.baseline in ("generate", "none") else self.baseline


@checked
@dataclass(frozen=True)
class SweepSettings:
    """The node ``sweep`` of generate and evaluate; it only applies to sweeps (-m).

    Attributes:
        name: name of the sweep's table. None: a hash of its overrides.
        rows: path of a YAML list of {name, overrides}; every row is run. None: no rows.
        only: conditions one of which a run must fulfil, such as "sampler=gtr seed<3". None: all runs.
        skip: conditions none of which a run may fulfil. None: no run is skipped.
        adjust: a swept key of which every combination gets the value that comes nearest to a cost.
        flops_ratio: this cost, as a factor that divides the unaccelerated sampler's FLOPs.
        tflops: or in TFLOPs per image.
        latency: or in seconds per image, measured on this machine.
        speedup: or as a measured speedup over the unaccelerated sampler.
        gpus: GPUs that local processes are dealt, as in CUDA_VISIBLE_DEVICES. None: all of them.
    """

    name: str | None = None
    rows: str | None = None
    only: str | list[str] | None = None
    skip: str | list[str] | None = None
    adjust: Text | None = None
    flops_ratio: Annotated[float, Gt(0)] | None = None
    tflops: Annotated[float, Gt(0)] | None = None
    latency: Annotated[float, Gt(0)] | None = None
    speedup: Annotated[float, Gt(0)] | None = None
    gpus: list[Annotated[int, Ge(0)] | Text] | None = None

    def __post_init__(self) -> None:
        targets = [self.flops_ratio, self.tflops, self.latency, self.speedup]
        if len(targets) - targets.count(None) != (0 if self.adjust is None else 1):
            raise ConfigError(
                "sweep.adjust needs one of sweep.flops_ratio, sweep.tflops, sweep.latency and sweep.speedup, "
                "and these need sweep.adjust."
            )
        name = self.name
        if name is None:
            return
        if not name.isprintable() or not name or set(name) & set("/\\") or name[0] == ".":
            raise ConfigError(f"sweep.name must be a plain name without slashes, got {name!r}.")
        # It is written after all runs, in names of files, which have at most 255 bytes with their endings.
        if len(name.encode()) > 200:
            raise ConfigError(f"sweep.name must have at most 200 bytes, got {len(name.encode())}.")


@checked
@dataclass(frozen=True)
class TableSettings:
    """The node ``table`` of evaluate_table.

    Attributes:
        rows: path of a YAML list of {name, overrides}.
        only: names of the rows to evaluate, in this order; the first row is always included. None: all rows.
        timing_rounds: number of rounds in which each row samples one batch.
        timing_batch_size: images per device in such a batch. None: trainer.batch_size.
        strip_images: number of images of each row in the pictures.
        paired: also compare every row with the first one, image by image.
    """

    rows: Text = "experiments/readme_table/rows.yaml"
    only: list[str] | None = None
    timing_rounds: Positive = 5
    timing_batch_size: Positive | None = None
    strip_images: Positive = 10
    paired: bool = True


@checked
@dataclass(frozen=True)
class BenchmarkSettings:
    """The node ``benchmark``.

    Attributes:
        variants: overrides of model, sampler and cache by name. The first variant is the one to compare with.
        only: names of the variants to time, in this order. None: all variants.
        rounds: number of interleaved rounds, in which each variant samples one batch.
        warmup_rounds: number of rounds before them that do not count.
        autoencoder: whether the time of the autoencoder is included; its FLOPs never are.
    """

    variants: dict[str, list[str]] = field(
        default_factory=lambda: {
            "mar": ["sampler=mar", "cache=none"],
            "gtr": ["sampler=gtr", "cache=none"],
            "gtr_19": ["sampler=gtr_19", "cache=none"],
            "gtr_16": ["sampler=gtr_16", "cache=none"],
            "lazymar": ["sampler=mar", "cache=lazymar"],
            "gtr_19+lazymar": ["sampler=gtr_19", "cache=lazymar"],
        }
    )
    only: list[str] | None = None
    rounds: Positive = 5
    warmup_rounds: Count = 1
    autoencoder: bool = False

    def __post_init__(self) -> None:
        if not self.variants:
            raise ConfigError("benchmark.variants is empty; give at least one variant.")


@checked
@dataclass(frozen=True)
class PlanSettings:
    """The node ``plan``.

    Attributes:
        flops: count the FLOPs of each AR step, including the cache.
    """

    flops: bool = True


@checked
@dataclass(frozen=True)
class CalibrateSettings:
    """The node ``calibrate``.

    Attributes:
        flops_ratio: smallest allowed ratio of the counted FLOPs without a cache to those with it; > 1.
        drift_factor: allowed drift between refreshes, as a multiple of the tolerance; > 0.
        warmup_steps: AR steps 0 to this one are refreshes.
        head_threshold: calibrate the first-block cache of the head instead: relative change of the first
            block at which a timestep is a refresh; > 0. None: calibrate the token cache.
    """

    flops_ratio: Annotated[float, Gt(1)] = 2.5
    drift_factor: Annotated[float, Gt(0)] = 3.0
    warmup_steps: Count = 1
    head_threshold: Annotated[float, Gt(0)] | None = None


def _check_baseline(node: str, baseline: str | None) -> None:
    if baseline is not None and not all("=" in part for part in split_outside(baseline, " ") if part):
        raise ConfigError(f"{node}.baseline={baseline} must be overrides, such as 'sampler=mar cache=none'.")


@checked
@dataclass(frozen=True)
class CollectSettings:
    """The node ``collect``.

    Attributes:
        folders: folders of runs, sweeps or tables; on the command line they need no key.
        baseline: overrides of the row to compare with. None: the row with the most FLOPs.
        baseline_per: keys whose values each have a baseline of their own. Empty: one for all rows.
        tuned: keys of which every setting shows only its best value, such as sampler.guidance_scale.
        objective: the metric that says which value is best.
        paired: also compare every row with its baseline image by image.
        worst: number of worst images in the picture of each row. 0: no pictures.
    """

    folders: list[str] = field(default_factory=list)
    baseline: str | None = None
    baseline_per: list[str] = field(default_factory=list)
    tuned: list[str] = field(default_factory=list)
    objective: str = "fid"
    paired: bool = False
    worst: Count = 10

    def __post_init__(self) -> None:
        _check_baseline("collect", self.baseline)


@checked
@dataclass(frozen=True)
class ReportSettings:
    """The node ``report``.

    Attributes:
        folders: folders of runs, sweeps or tables; on the command line they need no key.
        baseline: overrides of the row to compare with.
            None: the first row of a single table, else the row with the most FLOPs.
        baseline_per: keys whose values each have a baseline of their own. Empty: one for all rows.
        tuned: keys of which every setting shows only its best value, such as sampler.guidance_scale.
        objective: the metric that says which value is best.
        paired: also compare every setting with its baseline image by image, where images were kept.
        title: heading of the page. None: the names of the folders.
        figures: also write every figure as PNG and SVG.
    """

    folders: list[str] = field(default_factory=list)
    baseline: str | None = None
    baseline_per: list[str] = field(default_factory=list)
    tuned: list[str] = field(default_factory=list)
    objective: str = "fid"
    paired: bool = True
    title: str | None = None
    figures: bool = True

    def __post_init__(self) -> None:
        _check_baseline("report", self.baseline)


@checked
@dataclass(frozen=True)
class RedundancySettings:
    """The node ``redundancy``.

    Attributes:
        prune_block: decoder block whose values are compared. "auto": the block of the token cache.
        head_every: the chains of one in every ``head_every`` AR steps run again, with reuse in one part.
            None: never.
        head_period: number of timesteps from one refresh to the next; at least 2.
    """

    prune_block: Count | Literal["auto"] = "auto"
    head_every: Positive | None = 8
    head_period: Annotated[int, Ge(2), Le(_MOST)] = 7


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
        mask_ratio_std: standard deviation of the share around 1 before truncation (0.25 in MAR); at most 1.
        full_mask_share: share of the batches in which all tokens are masked, besides MAR's mask ratio.
        full_mask_tokens: number of tokens per image that have a loss where all are masked; None: all.
        gradient_clip: largest gradient norm.
        timestep_draws: noised versions of each masked token per step (4 in MAR).
            The head processes all of them; the backbone runs once.
        clean_weight: weight of the squared error of clean tokens, predicted linearly from z; 0: MAR's loss.
        class_weight: weight of the cross-entropy of classes, predicted linearly: of tokens from z, and of
            words from the text that the model attends to. The training data must have them.
        max_noise_weight: the MSE is weighted by 1 + 1/SNR, up to this; at least 1, which is MAR's loss.
        checkpoint_every: number of steps between checkpoints.
        resume: checkpoint to resume from, "last" for the newest in output_dir, or None.
        initial_weights: model folder to start from instead of random weights; steps count from 0.
        local_start: start with sine-cosine positions, and with heads of the decoder that attend to one
            neighbour each (``mar_accel.training.local_start``).
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
    mask_ratio_std: Annotated[float, Gt(0), Le(1)] = 0.25
    full_mask_share: Share = 0.0
    full_mask_tokens: Positive | None = None
    gradient_clip: Annotated[float, Ge(0)] = 3.0
    timestep_draws: Positive = 1
    clean_weight: Annotated[float, Ge(0)] = 0.0
    class_weight: Annotated[float, Ge(0)] = 0.0
    max_noise_weight: Annotated[float, Ge(1)] = 1.0
    checkpoint_every: Positive = 500
    resume: Text | None = "last"
    initial_weights: Text | None = None
    local_start: bool = False


@checked
@dataclass(frozen=True)
class FeatureTrainingSettings:
    """The node ``feature_training`` of train_features.

    Attributes:
        epochs: number of passes over the scans; for scenes, an epoch has 4,096 new scenes.
        batch_size: scans, or scenes, per step.
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
    seed: Seed = 0
    output_dir: str = ""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    callbacks: dict[str, Node | None] = field(default_factory=dict)
    logger: Node = field(default_factory=dict)
    features: Node = field(default_factory=dict)
    reference: Node = field(default_factory=dict)
    metrics: dict[str, Node | None] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    sweep: SweepSettings = field(default_factory=SweepSettings)
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    table: TableSettings = field(default_factory=TableSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    calibrate: CalibrateSettings = field(default_factory=CalibrateSettings)
    redundancy: RedundancySettings = field(default_factory=RedundancySettings)
    collect: CollectSettings = field(default_factory=CollectSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
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

    @property
    def image_format(self) -> ImageFormat:
        """How the images of a run lie on disk."""
        return self.generate.format if self.command == "generate" else self.evaluate.format

    def plain(self) -> dict[str, Any]:
        """Plain values for records, logs and further processes, without nodes of other commands.

        The node ``sweep`` says nothing about one run and is left out, too.
        """
        others = {*COMMAND_NODES.values()} - {self.command}
        if self.command not in COMMAND_NODES.values():
            others = set()
        elif self.command == "evaluate_table":
            others.remove("evaluate")
        left_out = {"sweep", *(node for node, owner in COMMAND_NODES.items() if owner in others)}
        return {key: value for key, value in asdict(self).items() if key not in left_out}

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
    "collect": "collect",
    "report": "report",
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
