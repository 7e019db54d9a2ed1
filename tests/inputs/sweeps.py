"""Wrong sweeps and searches: nothing runs, and nothing is left."""

from __future__ import annotations

from importlib.util import find_spec

from tests.inputs.row import Row

_TWO = "seed=0,1"
_GRID = {
    ("sweep=3", _TWO): "sweep must be a group of settings, got 3",
    ("sweep.nmae=x", _TWO): "sweep.nmae is not a key of the config; did you mean sweep.name?",
    (f"sweep.name={'n' * 300}", _TWO): "sweep.name must have at most 200 bytes, got 300.",
    ("sweep.name=a,b", _TWO): "sweep.name=a,b has several values, but the whole sweep has one sweep.name",
    ("sweep.flops_ratio=2,3", _TWO): "sweep.flops_ratio=2,3 has several values",
    ("sweep.adjust=", "sweep.flops_ratio=2", _TWO): "sweep.adjust must be a text that is not empty",
    ("sweep.gpus=[-1]", _TWO): "sweep.gpus[0] must be ≥ 0, got -1.",
    ("hydra.sweeper.max_batch_size=-1", _TWO): "hydra.sweeper.max_batch_size must be an integer ≥ 1",
    ("hydra.sweeper.max_batch_size=abc", _TWO): "hydra.sweeper.max_batch_size must be an integer ≥ 1",
    ("hydra.sweeper.params=3", _TWO): "hydra.sweeper.params must be a group of settings, got 3.",
    ("+hydra.sweeper.foo=3", _TWO): "hydra.sweeper.foo is not a key of the config",
    ("hydra.sweep.dir=/dev/null", _TWO): "hydra.sweep.dir=/dev/null is a file, or inside one",
    ("hydra.sweep.dir=/proc/x", _TWO): "hydra.sweep.dir=/proc/x cannot be written",
    ("hydra.sweep.dir=", _TWO): "hydra.sweep.dir must name a separate folder, got ''",
    ("hydra.sweep.dir=..", _TWO): "hydra.sweep.dir must name a separate folder, got '..'",
    ("sampler.num_iter=range(1,60)", "seed=range(0,200)"): "seed=range(0,200) makes more than 10,000 runs",
}
_ALL = {
    ("sampler=glob(x*)",): "sampler=glob(x*) matches no member of the group; correct the pattern.",
    ("seed=range(3,0)",): "seed=range(3,0) is an empty range; its end is excluded.",
    ("seed=range(0,3,0)",): "seed=range(0,3,0) has a step of 0; give it another step.",
    ("seed=range(0,inf)",): "seed=range(0,inf) needs finite numbers up to 1e+15",
    ("seed=range(0,1e12)",): "seed=range(0,1e12) makes more than 10,000 runs; sweep fewer values",
    ("seed=shuffle(range(0,1e12))",): "makes more than 10,000 runs; sweep fewer values",
    (
        "hydra.sweeper.max_batch_size=0",
        _TWO,
    ): "hydra.sweeper.max_batch_size must be an integer ≥ 1 or null, got 0.",
}
_PLAN = {
    ("hydra.sweep.dir=/dev/null", _TWO): "/dev/null cannot be read or written (File exists)",
    ("sweep.skip=seed=0", _TWO): "sweep.skip is not a key of the config",
}
_TEMPERATURE = "sampler.temperature"
_SEARCH = {
    ("hydra.sweeper.seed=99999999999999", _TWO): "hydra.sweeper.seed must be ≤ 2147483648",
    ("hydra.sweeper.params=[1]", _TWO): "hydra.sweeper.params must be a group of settings, got [1].",
    ("hydra.sweeper.n_trials=0", _TWO): "hydra.sweeper.n_trials must be ≥ 1, got 0.",
    (f"{_TEMPERATURE}=interval(1,0)",): "interval(1,0) is an empty interval; write the smaller number first.",
    (f"{_TEMPERATURE}=interval(0,inf)",): "interval(0,inf) needs finite numbers",
    (f"{_TEMPERATURE}=tag(log,interval(0,1))",): "has a logarithmic scale, which needs numbers > 0",
    ("seed=int(interval(0,1e30))",): "needs finite numbers up to 1e+15",
    ("sampler=glob(x*)",): "sampler=glob(x*) matches no member of the group",
    ("seed=shuffle(range(0,100000))",): "has too many values in no order; leave out the shuffle.",
    ("seed=0",): "a search needs keys to choose",
    ("hydra.sweep.dir=/dev/null", _TWO): "hydra.sweep.dir=/dev/null is a file, or inside one",
}

_OBJECTIVES = {
    "evaluate.objective=[]": "evaluate.objective must be a metric or a list of metrics, got []",
    "evaluate.objective=3": "evaluate.objective must be a metric or a list of metrics, got [3]",
    "evaluate.objective=null": "evaluate.objective must be a metric or a list of metrics, got [None]",
    "evaluate.objective=beauty": "it is unknown whether beauty is better when it is high or low",
}

ROWS = [
    *(Row("generate", ("-m", *arguments), said) for arguments, said in (_GRID | _ALL).items()),
    *(Row("plan", ("-m", *arguments), said) for arguments, said in (_ALL | _PLAN).items()),
]
if find_spec("optuna"):
    flags = ("-m", "hydra/sweeper=search")
    ROWS += [Row("generate", (*flags, *arguments), said) for arguments, said in _SEARCH.items()]
    ROWS += [Row("evaluate", (*flags, _TWO, argument), said) for argument, said in _OBJECTIVES.items()]
