"""Command lines that cannot be read, and keys that nothing reads."""

from __future__ import annotations

from pathlib import Path

from tests.inputs.row import Row

_HOME = Path.home()
# One argument each.
_ARGUMENTS = {
    "dataset.labels=[1,": "dataset.labels=[1, cannot be read",
    "dataset.labels={": "dataset.labels={ cannot be read",
    "model.name='x": "model.name='x cannot be read",
    "output_dir=/x/a=b": """write 'output_dir="/x/a=b"'.""",
    "model.weights=/x/a~b": """write 'model.weights="/x/a~b"'.""",
    "model.weights=~/a#b": f"""write 'model.weights="{_HOME}/a#b"'.""",
    "output_dir=/x/a,b": """for one value write 'output_dir="/x/a,b"'.""",
    "output_dir=/x/ä": """write 'output_dir="/x/ä"'.""",
    "output_dir=/x/a(1)": """write 'output_dir="/x/a(1)"'.""",
    "output_dir=/x/a'b": "two pairs of quotes; write",
    "output_dir=/x/a b&c": """write 'output_dir="/x/a b&c"'.""",
    "model.weights=/x/図.pth": """write 'model.weights="/x/図.pth"'.""",
    "seed": "seed cannot be read; write it as seed=VALUE.",
    "seed==3": "seed==3",
    "+sampler=gtr": "choose another one by sampler=MEMBER, without the +.",
    "+seed=1": "seed is already in the config; write it without the +.",
    "~nothing": "nothing is not a key of the config",
    "seed=${nothing}": "seed cannot be resolved: ",
    "seed=${oc.env:NOT_SET_ANYWHERE}": "seed cannot be resolved: ",
    "smapler=mar": "smapler is not a key of the config; did you mean sampler?",
    "dataste.labels=1": "did you mean dataset.labels?",
    "zzz.yyy=1": "zzz.yyy is not a key of the config",
    "command=evaluate": "command cannot be changed",
    "+evaluate.lpips=true": "evaluate belongs to mar_accel.evaluate",
    "dtype=bfloat16": "dtype belongs to mar_accel.convert",
    "training.max_steps=3": "training belongs to mar_accel.train",
    "--config-path=/nowhere": "--config-path=/nowhere is not a folder;",
    "-cd=/nowhere": "-cd=/nowhere is not a folder; correct the path.",
    "--config-name=nothing": "nothing",
    "hydra/launcher=nothing": "hydra/launcher=nothing is unknown",
    "+experiment=nothing": "experiment=nothing is unknown; choose one of ",
    "experiment=nothing": "experiment=nothing is unknown; choose one of ",
    "debug=nothing": "debug=nothing is unknown; choose one of ",
}
_SEVERAL = {
    ("--config-dir", "/nowhere"): "--config-dir=/nowhere is not a folder; correct",
    ("hydra.searchpath=[file:///nowhere]",): "hydra.searchpath has /nowhere, which is not a folder",
    ("seed=1,2",): "seed=1,2 has a comma, which separates the values of a sweep (-m)",
}

ROWS = [
    *(Row("generate", (argument,), sentence) for argument, sentence in _ARGUMENTS.items()),
    *(Row("generate", arguments, sentence) for arguments, sentence in _SEVERAL.items()),
]
