"""Wrong numbers of images, devices and folders: dataset, trainer, callbacks, logger, output_dir."""

from __future__ import annotations

from tests.inputs.row import Row, rows_of

_DATASET = rows_of(
    "generate",
    {
        "dataset.labels=[3,10]": "dataset.labels must be classes of the model, 0 to 9, got 10.",
        "dataset.labels=-1": "dataset.labels must be classes of the model, 0 to 9, got -1.",
        "dataset.labels=[]": "dataset.labels is empty",
        "dataset.labels=[3,seven]": "dataset.labels[1] must be an integer, got 'seven'.",
        "dataset.labels=seven": "dataset.labels must be an integer or a list, got 'seven'.",
        "dataset.num_images=0": "dataset.num_images must be ≥ 1, got 0.",
        "dataset.num_images=null": "dataset.num_images must be an integer, got null.",
        "dataset.num_images=100000000000000000000": "dataset.num_images must be ≤",
        "dataset.num_classes=100 dataset.labels=50": "dataset.num_classes must be at most 10, the classes of model=",
        "dataset=folder": "dataset.path has no default; give it a value.",
        "dataset=nothing": "dataset=nothing is unknown; choose one of ",
        "dataset.num_image=4": "did you mean dataset.num_images?",
        "+dataset.nonsense=3": "dataset.nonsense is not a key of the config",
        "seed=-1": "seed must be ≥ 0, got -1.",
        "seed=100000000000000000000": "seed must be <",
    },
)
_TRAINER = rows_of(
    "generate",
    {
        "model.weights=random trainer.batch_size=10000000 dataset.num_images=10000000": "trainer.batch_size=10000000 needs at least",
        "trainer.devices=1000000000": "trainer.devices must be ≤ 1024, got 1000000000.",
        "trainer.devices=two": "trainer: ",
        "trainer.devices=17": "trainer.devices=17 must not exceed dataset.num_images=16",
        "trainer.num_nodes=2": "trainer.num_nodes=2 needs a launcher",
        "trainer.num_nodes=0": "trainer.num_nodes must be ≥ 1, got 0.",
        "trainer.strategy=ddp_spawn": "trainer.strategy=ddp_spawn starts processes",
        "trainer.strategy=ddp_fork": "trainer.strategy=ddp_fork starts processes",
        "trainer.strategy=fast": "trainer: ",
        "trainer.accelerator=tpu": "trainer: Requirement 'torch_xla",
        "trainer.accelerator=abacus": "trainer: ",
        "trainer.precision=17": "trainer.precision must be one of 32-true, ",
        "trainer.precision=half": "trainer.precision must be one of 32-true, ",
        "trainer.precision=[16]": "trainer.precision must be text or an integer, got [16].",
        "trainer.precision=transformer-engine": "not met; install the package, or use",
        "trainer.limit_predict_batches=0": "trainer.limit_predict_batches must be a number of",
        "trainer.limit_predict_batches=1.5": "trainer.limit_predict_batches must be a number of",
        "trainer.limit_predict_batches=-1": "trainer.limit_predict_batches must be a number of",
        "+trainer.profiler=stopwatch": "trainer: ",
        "+trainer.deterministic=maybe": "trainer.deterministic must be true or false or warn",
        "+trainer.plugins=foo": "trainer.plugins must be null, got 'foo'.",
        "+trainer.num_node=2": "did you mean trainer.num_nodes?",
        "+trainer.max_epochs=2": "trainer.max_epochs only applies to training",
        "trainer.max_steps=3": "trainer.max_steps only applies to training; remove it",
        "trainer=tpu": "trainer=tpu is unknown; choose one of ",
        "trainer=null": "a group needs a member",
    },
)
_AROUND = rows_of(
    "generate",
    {
        "+generate.foo=1": "generate.foo is not a key of the config",
        "callbacks=bars": "callbacks=bars is unknown; choose one of ",
        "+callbacks.own={_target_: nothing.Here}": "callbacks.own._target_=nothing.Here does not exist",
        "+callbacks.own={_target_: mar_accel.sampling.orders.RandomOrder}": "must make a Callback, got a RandomOrder.",
        "+callbacks.own=3": "callbacks.own must be",
        "logger=paper": "logger=paper is unknown; choose one of ",
        "logger=csv logger.save_dir=[1]": "logger",
        "logger=csv +logger.foo=1": "logger.foo is not a key of the config",
        "logger=wandb logger.offline=maybe": "logger.offline must be true or false, got 'maybe'.",
        "output_dir=''": "output_dir must name a separate folder, got ''",
        "output_dir=.": "output_dir must name a separate folder, got '.'",
        "output_dir=..": "output_dir must name a separate folder, got '..'",
        "output_dir=../..": "output_dir must name a separate folder, got '../..'",
        "output_dir=/dev/null": "output_dir=/dev/null is a file",
        "metrics.own=3": "metrics.own",
        "features=nothing": "features=nothing is unknown; choose one of ",
    },
)

ROWS: list[Row] = [*_DATASET, *_TRAINER, *_AROUND]
