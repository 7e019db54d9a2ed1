"""Wrong values of the nodes of single commands."""

from __future__ import annotations

from tests.inputs.row import Row, rows_of

_EVALUATE = rows_of(
    "evaluate",
    {
        "dataset.num_images=1": "dataset.num_images must be ≥ 2 for statistics, got 1.",
        "evaluate.baseline_sampler.num_iter=999": "evaluate.baseline_sampler.num_iter",
        "evaluate.baseline_sampler.num_iter=few": "evaluate.baseline_sampler.num_iter",
        "evaluate.baseline_sampler.num_diffusion_steps=0": "evaluate.baseline_sampler.num_diffusion_steps",
        "+evaluate.baseline_sampler.temperature=-1": "evaluate.baseline_sampler.temperature",
        "+evaluate.baseline_sampler.max_timestep=x": "evaluate.baseline_sampler.max_timestep",
        "+evaluate.baseline_sampler.order=gtr": "evaluate.baseline_sampler.order is not a key of sampler=mar",
        "evaluate.baseline_sampler=3": "evaluate.baseline_sampler must be a group of settings",
        "evaluate.baseline=nowhere": "evaluate.baseline must be a folder of images, an .npz file or a run folder",
        "evaluate.baseline=''": "evaluate.baseline must be a text that is not empty",
        "evaluate.baseline=null": "evaluate.baseline must be text, got null.",
        "evaluate.baseline=/dev/zero": "evaluate.baseline must be a folder of images",
        "evaluate.baseline_dir=/dev/null": "evaluate.baseline_dir=/dev/null is a file",
        "evaluate.baseline_dir=/proc/x": "evaluate.baseline_dir=/proc/x cannot be written",
        "evaluate.baseline_dir=''": "evaluate.baseline_dir must be a text that is not empty",
        "evaluate.fidelity_images=1.5": "evaluate.fidelity_images must be an integer, got 1.5.",
        "evaluate.fidelity_images=-1": "evaluate.fidelity_images must be ≥ 0, got -1.",
        "evaluate.profile=flase": "evaluate.profile must be true or false, got 'flase'.",
        "evaluate.resume=flase": "evaluate.resume must be true or false, got 'flase'.",
        "evaluate.objective=beauty": "evaluate.objective=beauty is not a metric; choose one of ",
        "evaluate.images=nowhere": "evaluate.images must be a folder of images, an .npz file or a run folder",
        "evaluate.images=''": "evaluate.images must be a text that is not empty",
        "evaluate.images=/dev/zero": "evaluate.images must be a folder of images",
        "+evaluate.foo=1": "evaluate.foo is not a key of the config",
        "features._target_=nothing.Here": "features._target_=nothing.Here does not exist",
        "features._target_=mar_accel.sampling.orders.RandomOrder": "must make a FeatureExtractor",
        "features.weights=nowhere": "features.weights=nowhere cannot be read as digit feature weights",
        "features.weights=/dev/zero": "features.weights=/dev/zero cannot be read as digit feature weights",
        "features.weights=''": "features.weights must be a text that is not empty",
        "features=dinov2 features.size=0": "features.size must be ≥ 14, got 0.",
        "features=dinov2 features.size=1000000000000": "features.size must be ≤ 1024, got 1000000000000.",
        "reference.source=nowhere": "reference.source=nowhere does not exist",
        "reference.source=/dev/zero": "reference.source must be a folder of images",
        "reference.source=''": "reference.source must be a text that is not empty",
        "reference.augmentations=100000000": "reference.augmentations=100000000 needs",
        "reference.cache_dir=3": "reference.cache_dir must be text, got 3.",
        "reference.sauce=x": "did you mean reference.source?",
        "+metrics.fid={_target_: torchmetrics.MeanMetric}": "metrics.fid is the name of a built-in metric",
        "+metrics.own={_target_: torchmetrics.Nothing}": "metrics.own._target_=torchmetrics.Nothing does not exist",
        "+metrics.own={_target_: mar_accel.sampling.orders.RandomOrder}": "must make a Metric, got a RandomOrder.",
        "trainer.batch_size=0": "trainer.batch_size must be ≥ 1, got 0.",
        "generate.resume=true": "generate belongs to mar_accel.generate and has no effect",
        "logger=csv logger.save_dir=/proc/x": "logger",
    },
)
_TABLE = rows_of(
    "evaluate_table",
    {
        "table.rows=nowhere.yaml": "table.rows=nowhere.yaml is not a file",
        "table.rows=''": "table.rows must be a text that is not empty",
        "table.rows=/dev/zero": "table.rows=/dev/zero is not a file",
        "table.only=[nobody]": "table.only: nobody is not defined; choose one of ",
        "table.only=mar": "table.only must be a list, got 'mar'.",
        "table.timing_rounds=x": "table.timing_rounds must be an integer, got 'x'.",
        "table.strip_images=0": "table.strip_images must be ≥ 1, got 0.",
        "table.row=x": "did you mean table.rows?",
        "evaluate.timing_rounds=x": "evaluate.timing_rounds must be an integer, got 'x'.",
        "evaluate.objective=beauty": "evaluate.objective=beauty is not a metric",
        "evaluate.baseline_sampler.num_iter=999": "evaluate.baseline_sampler.num_iter",
        "dataset.num_images=1": "dataset.num_images must be ≥ 2 for statistics, got 1.",
        "sampler.num_iter=999": "sampler.num_iter must be between 1 and 256",
        "features.weights=nowhere": "features.weights=nowhere cannot be read",
        "reference.source=nowhere": "reference.source=nowhere does not exist",
    },
)
_BENCHMARK = rows_of(
    "benchmark",
    {
        "benchmark.variants=null": "benchmark.variants must be a group of settings",
        "benchmark.variants=3": "benchmark.variants must be a group of settings",
        "benchmark.variants.mar=sampler": "benchmark.variants.mar must be a list",
        "benchmark.variants.mar=[3]": "benchmark.variants.mar[0] must be text, got 3.",
        '+benchmark.variants.own=["sampler=fast"]': "sampler=fast is unknown; choose one of ",
        '+benchmark.variants.own=["seed=3"]': "benchmark.variants.own overrides seed=3, which must be the same",
        "benchmark.only=[]": "benchmark.only is empty",
        "benchmark.only=[nobody]": "benchmark.only: nobody is not defined; choose one of mar, ",
        "benchmark.only=mar": "benchmark.only must be a list, got 'mar'.",
        "model.weights=random trainer.batch_size=100000000": "trainer.batch_size=100000000 needs at least",
        "benchmark.round=3": "did you mean benchmark.rounds?",
    },
)
_PLAN = rows_of(
    "plan",
    {
        "plan.flops=maybe": "plan.flops must be true or false, got 'maybe'.",
        "+plan.foo=1": "plan.foo is not a key of the config; plan takes flops.",
        "sampler.num_iter=999": "sampler.num_iter must be between 1 and 256",
        "model.architecture.num_heads=0": "num_heads must be an integer between 1 and",
        "cache=lazymar cache.token.prune_block=9": "cache.token.prune_block must be between 0 and 3",
        "output_dir=/dev/null": "output_dir=/dev/null is a file",
    },
)
_CALIBRATE = rows_of(
    "calibrate",
    {
        "cache=none": "cache has no token cache, so there are no ratios to fit",
        "cache=head": "cache has no token cache, so there are no ratios to fit",
        "calibrate.flops_ratio=1": "calibrate.flops_ratio must be > 1, got 1",
        "calibrate.flops_ratio=nan": "calibrate.flops_ratio must be finite",
        "calibrate.flops_ratio=fast": "calibrate.flops_ratio must be a number, got 'fast'.",
        "calibrate.drift_factor=0": "calibrate.drift_factor must be > 0, got 0",
        "calibrate.warmup_steps=-1": "calibrate.warmup_steps must be ≥ 0, got -1.",
        "calibrate.warmup_steps=1.5": "calibrate.warmup_steps must be an integer, got 1.5.",
        "calibrate.ratio=3": "calibrate.ratio is not a key of the config",
    },
)
_REDUNDANCY = rows_of(
    "redundancy",
    {
        "redundancy.prune_block=99": "prune_block must be between 0 and 3",
        "redundancy.prune_block=x": "redundancy.prune_block must be an integer or auto, got 'x'.",
        "redundancy.head_every=0": "redundancy.head_every must be ≥ 1, got 0.",
        "sampler.num_iter=1": "sampler.num_iter must be ≥ 2, since adjacent AR steps are compared, got 1.",
        "dataset.labels=99": "dataset.labels must be classes of the model, 0 to 9, got 99.",
    },
)
_CONVERT = rows_of(
    "convert",
    {
        "dtype=int8": "dtype must be float32, bfloat16 or float16, got 'int8'.",
        "dtype=null": "dtype must be float32, bfloat16 or float16, got null.",
        "model=digits output_dir=/dev/null": "output_dir=/dev/null is a file",
        "model=scenes dataset=scenes model.weights=null": "model.weights is not set; use a file",
        "model=digits model.architecture.embed_dim=7": "embed_dim must be a multiple of num_heads",
        "training.max_steps=3": "training belongs to mar_accel.train and has no effect in mar_accel.convert",
    },
)
_TRAIN = rows_of(
    "train",
    {
        "training.max_steps=x": "training.max_steps must be an integer, got 'x'.",
        "training.batch_size=0": "training.batch_size must be ≥ 1, got 0.",
        "training.batch_size=5000": "training.batch_size must be at most 1797, the images of dataset=digits",
        "training.timestep_draws=10000000000": "training.timestep_draws=10000000000 needs at least",
        "training.weight_decay=-1": "training.weight_decay must be ≥ 0, got -1",
        "training.decay_fraction=1.5": "training.decay_fraction must be ≤ 1, got 1.5.",
        "training.ema_decay=1": "training.ema_decay must be < 1, got 1",
        "training.label_drop=2": "training.label_drop must be ≤ 1, got 2",
        "training.gradient_clip=-1": "training.gradient_clip must be ≥ 0, got -1",
        "training.resume=nowhere.ckpt": "training.resume=nowhere.ckpt is not a file; use a checkpoint, last or null.",
        "training.resume=/dev/zero": "training.resume=/dev/zero is not a file",
        "training.resume=''": "training.resume must be a text that is not empty",
        "training.initial_weights=nowhere": "training.initial_weights=nowhere has no model.safetensors",
        "training.step=1": "training.step is not a key of the config",
        "seed=5000000000": "seed must be at most 4294967295 in a training, got 5000000000.",
        "dataset=imagenet model=digits": "dataset=imagenet has no training data",
        "dataset.training_data={_target_: null}": "dataset=digits has no training data",
        "+dataset.training_data.foo=1": "dataset.training_data.foo is not a key of the config",
        "dataset=folder dataset.path=nowhere": "dataset.path=nowhere is not a folder",
        "dataset=folder dataset.path=''": "dataset.path must be a text that is not empty",
        "dataset=folder dataset.path=/proc/self/fd": "dataset.path=/proc/self/fd has no sub-folders with images",
        "model.architecture.latent_channels=3": "model=digits makes images of 3 channels but dataset=digits has 1; choose a matching model.",
        "model.architecture.grid=[8,8]": "model.architecture.grid and patch_size make images of 16×16 pixels",
        "model.architecture.num_classes=5": "model.architecture.num_classes must be at least 10, the classes of",
        "model.architecture.embed_dim=300000": "model.architecture has 8.73e+03 billion parameters, which need",
        "model.architecture.num_heads=0": "num_heads must be an integer between 1 and",
        "model=scenes dataset=scenes model.text_encoder.depth=0": "model.text_encoder.depth",
        "model=scenes dataset=scenes model.text_encoder.num_heads=0": "model.text_encoder.num_heads",
        "model=scenes dataset=scenes model.text_encoder.dim=130": "model.text_encoder.dim",
        "model=scenes dataset=scenes model.text_encoder.vocab_size=x": "model.text_encoder.vocab_size",
        "model=scenes dataset=scenes model.text_encoder=null": "model.text_encoder",
        "model=scenes dataset=scenes +model.text_encoder.foo=1": "model.text_encoder.foo is not a key",
        "model=scenes dataset=scenes model.architecture.cross_depth=-1": "model.architecture.cross_depth",
        "trainer.devices=0": "trainer.devices must be ≥ 1, got 0.",
        "trainer.precision=17": "trainer.precision must be one of",
        "output_dir=/dev/null": "output_dir=/dev/null is a file",
        "logger=csv logger.save_dir=/proc/x": "logger",
    },
)
_TRAIN_FEATURES = rows_of(
    "train_features",
    {
        "feature_training.batch_size=100000": "feature_training.batch_size must be at most 1438",
        "feature_training.learning_rate=inf": "feature_training.learning_rate must be finite",
        "feature_training.weight_decay=-1": "feature_training.weight_decay must be ≥ 0, got -1",
        "feature_training.held_out=1": "feature_training.held_out must be < 1, got 1",
        "feature_training.held_out=1e-9": "feature_training.held_out must leave",
        "feature_training.epoch=1": "did you mean feature_training.epochs?",
        "output_dir=/dev/null": "output_dir=/dev/null is a file",
    },
)
_COLLECT = rows_of(
    "collect",
    {
        "collect.folders=[]": "collect.folders",
        "collect.folders=nowhere": "collect.folders must be a list, got 'nowhere'.",
        "nowhere": "nowhere",
        "collect.folders=[nowhere]": "nowhere",
        "collect.folders=[nowhere] collect.baseline=mar": "collect.baseline=mar must be overrides",
        "collect.folders=[/dev/zero]": "/dev/zero",
        "collect.folder=x": "did you mean collect.folders?",
    },
)

_REPORT = rows_of(
    "report",
    {
        "report.folders=[]": "report.folders is empty",
        "report.folders=[1]": "report.folders[0] must be text, got 1.",
        "report.folders=[nowhere]": "nowhere",
        "report.folders=[nowhere] report.baseline=mar": "report.baseline=mar must be overrides",
        "report.figures=maybe": "report.figures must be true or false, got 'maybe'.",
        "report.titel=x": "did you mean report.title?",
    },
)

ROWS: list[Row] = [
    *(*_EVALUATE, *_TABLE, *_BENCHMARK, *_PLAN, *_CALIBRATE),
    *(*_REDUNDANCY, *_CONVERT, *_TRAIN, *_TRAIN_FEATURES, *_COLLECT, *_REPORT),
]
