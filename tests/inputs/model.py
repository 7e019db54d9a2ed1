"""Wrong models: sizes, names, sources of weights, autoencoders."""

from __future__ import annotations

from tests.inputs.row import Row, rows_of

_SIZES = rows_of(
    "generate",
    {
        "model.architecture.num_heads=3 model.architecture.embed_dim=32": "num_heads=3",
        "model.architecture.num_heads=0": "num_heads must be an integer between 1 and",
        "model.architecture.num_heads=two": "model.architecture.num_heads must be an integer, got 'two'.",
        "model.architecture.grid=[16]": "model.architecture.grid must be two sizes",
        "model.architecture.grid=[]": "model.architecture.grid must be two sizes",
        "model.architecture.grid=[16,16,16]": "model.architecture.grid must be two sizes",
        "model.architecture.grid=[16,0]": "grid must be an integer between 1 and",
        "model.architecture.grid=16": "model.architecture.grid must be a list, got 16.",
        "model.architecture.patch_size=0": "patch_size must be an integer between 1 and",
        "model.weights=random model.architecture.latent_channels=5": "model.architecture.latent_channels must be 1 (greyscale) or 3 (colour)",
        "model.architecture.latent_channels=0": "latent_channels must be an integer between 1 and",
        "model.architecture.buffer_size=-1": "buffer_size must be an integer between 0 and",
        "model.architecture.encoder_depth=-1": "encoder_depth must be an integer between 0",
        "model.architecture.decoder_depth=0": "decoder_depth must be an integer between 1 and",
        "model.architecture.head_width=0": "head_width must be an integer between 1 and",
        "model.architecture.head_depth=10000000": "between 0 and 1000, got 10000000.",
        "model.architecture.num_classes=0": "model.architecture.num_classes must be ≥ 1, got 0.",
        "model.architecture.num_classes=1000000000000": "num_classes must be an integer between 1 and",
        "+model.architecture.mlp_ratio=-1": "mlp_ratio must be a number > 0, got -1",
        "+model.architecture.mlp_ratio=nan": "model.architecture.mlp_ratio must be finite",
        "+model.architecture.dropout=1.0": "dropout must be a number ≥ 0 and < 1, got 1.0.",
        "model.architecture.embed_dim=300000": "model.architecture has 8.73e+03 billion parameters, which need",
        "model.architecture.embed_dim=-96": "embed_dim must be an integer between 1 and",
        "+model.architecture.widht=3": "model.architecture.widht is not a key of the config",
        "model.architecture=3": "model.architecture",
        "~model.architecture.num_classes": "model.architecture.num_classes",
    },
)
_NAMES = rows_of(
    "generate",
    {
        "model=mar_tiny": "model=mar_tiny is unknown; choose one of ",
        "model.name=../../x": "model.name must be a plain name without slashes",
        "model.name=''": "model.name must be a plain name without slashes",
        "model.name=.hidden": "model.name must be a plain name without slashes",
        "model.name=null": "model.name must be text, got null.",
        "model.ema=yes": "model.ema must be true or false, got 'yes'.",
        "model=scenes": "dataset=digits has classes, but model=scenes takes text",
        "+model.wights=random": "model.wights is not a key of the config; did you mean model.weights?",
    },
)
_SOURCES = [
    row
    for command in ("generate", "evaluate", "benchmark", "calibrate", "redundancy", "convert")
    for row in rows_of(
        command,
        {
            "model=digits model.weights=null": "model.weights is not set; use a file",
            "model=digits model.weights=nowhere.pth": "model.weights=nowhere.pth does not exist; use a file",
            "model=digits model.weights=/dev/zero": "model.weights=/dev/zero is a pipe, a device or a socket",
        },
    )
]
_OTHER = rows_of(
    "generate",
    {
        "model.weights=''": "model.weights must be a text that is not empty",
        "model.weights=./digits": "model.weights=./digits does not exist; use a file",
        f"model.weights={'w' * 300}": "does not exist; use a file",
        "model.autoencoder._target_=null": "model.autoencoder._target_ is not set; name a class",
        "model.weights=random model.autoencoder._target_=mar_accel.sampling.orders.RandomOrder": "must make an Autoencoder",
        "+model.autoencoder.foo=1": "model.autoencoder.foo is not a key of the config",
        "model=mar_base model.weights=random model.autoencoder.weights=nowhere.ckpt": "model.autoencoder.weights=",
        "model=mar_base model.weights=random model.autoencoder.weights=3": "model.autoencoder.weights must be",
    },
)

ROWS: list[Row] = [*_SIZES, *_NAMES, *_SOURCES, *_OTHER]
