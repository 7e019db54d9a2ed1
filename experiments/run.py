"""Make the tables and figures of the experiments: ``python experiments/run.py [NAME …] [OVERRIDE …]``.

Without names, all of them but those that take hours. Each folder with an ``experiment.yaml`` has one table or
figure, or a few that belong together. Its commands write below ``outputs/experiments/NAME``; the same command
continues what was cut off. Then the tables and the figures are copied beside the ``experiment.yaml``.
Overrides apply to all commands, as for other models:

    python experiments/run.py gtr_table model=mar_huge model.weights=FOLDER dataset=imagenet trainer=gpu \
      dataset.num_images=50000 trainer.batch_size=128 features=inception reference=imagenet

With overrides nothing is copied: the recorded results are those of the embedded model.
``experiments/cost.py`` says beforehand what it takes.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
OUTPUTS = Path("outputs") / "experiments"
TABLES = ("table.csv", "table.md", "table.tex")
PAIRED = ("paired.csv", "paired.md")


@dataclass(frozen=True)
class Run:
    """One command of an experiment.

    Attributes:
        experiment: name of the experiment's folder.
        name: name of the command among several ones; empty if it is the only one.
        command: a command of the package; empty for a script.
        script: a Python file in the experiment's folder, which takes ``output_dir=FOLDER`` and overrides.
        sweep: whether the command is a sweep (``-m``).
        overrides: overrides of the command, or arguments of the script.
        figures: figures of the run's report that are kept, together with its tables.
        paired: the setting that the others are compared with image by image, as ``collect.baseline``.
        paired_per: keys whose values each have such a setting, as ``collect.baseline_per``.
        recorded: files that the command writes, by the names under which they are kept. Without figures only.
    """

    experiment: str
    name: str = ""
    command: str = ""
    script: str = ""
    sweep: bool = False
    overrides: Sequence[str] = ()
    figures: Sequence[str] = ()
    paired: str = ""
    paired_per: Sequence[str] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        """Where the run writes."""
        return OUTPUTS / self.experiment / self.name

    def arguments(self, output_dir: Path, overrides: Sequence[str] = ()) -> list[str]:
        """What Python is started with."""
        if self.script:
            script = str(FOLDER / self.experiment / self.script)
            return [script, *self.overrides, f"output_dir={output_dir}", *overrides]
        flag, key = (["-m"], "hydra.sweep.dir") if self.sweep else ([], "output_dir")
        module = f"mar_accel.{self.command}"
        return ["-m", module, *flag, *self.overrides, f"{key}={output_dir}", *overrides]

    def kept_files(self) -> dict[str, str]:
        """The files that are kept, relative to what was made, with their names beside the experiment.yaml."""
        if not self.figures:
            return dict(self.recorded)
        figures = [f"figures/{figure}{kind}" for figure in self.figures for kind in (".png", ".svg")]
        pairs = [f"paired/{file}" for file in PAIRED] if self.paired else []
        return {file: Path(file).name for file in (*TABLES, *pairs, *figures)}

    def reports(self) -> list[list[str]]:
        """What Python is started with afterwards, to write the report and the comparison."""
        made, folder = self.output_dir / "report", str(self.output_dir)
        title = f"report.title={self.experiment}"
        reports = [["-m", "mar_accel.report", folder, f"output_dir={made}", title]] if self.figures else []
        if self.paired:
            words = ["collect.paired=true", "collect.worst=0", f"collect.baseline={self.paired}"]
            words += [f"collect.baseline_per=[{','.join(self.paired_per)}]"] if self.paired_per else []
            reports.append(["-m", "mar_accel.collect", folder, *words, f"output_dir={made}/paired"])
        return reports


def names() -> list[str]:
    """The experiments, by their folders."""
    return sorted(file.parent.name for file in FOLDER.glob("*/experiment.yaml"))


def takes_hours(name: str) -> bool:
    """Whether an experiment is left out where none is named."""
    return bool(_content(name).get("takes_hours", False))


def _content(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name / "experiment.yaml").read_text())
    return content


def read(name: str) -> list[Run]:
    """The commands of an experiment: one, or those below the key ``runs``."""
    content = {key: value for key, value in _content(name).items() if key != "takes_hours"}
    return [_run_of(name, own, values) for own, values in content.get("runs", {"": content}).items()]


def _run_of(experiment: str, name: str, values: Mapping[str, Any]) -> Run:
    recorded = values.get("recorded", {})
    kept = dict(recorded) if isinstance(recorded, Mapping) else {file: file for file in recorded}
    return Run(experiment, name, **{**values, "recorded": kept})


def run(name: str, overrides: Sequence[str]) -> None:
    """Run an experiment, write its reports, and record its tables and figures."""
    start = time.monotonic()
    for one in read(name):
        _python(one.arguments(one.output_dir, overrides))
        for report in one.reports():
            _python(report)
        made = one.output_dir / "report" if one.figures else one.output_dir
        if not overrides:
            record(one, made)
    print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def record(one: Run, made: Path) -> None:
    """Copy the files that are kept beside the experiment.yaml, all or none."""
    kept = one.kept_files()
    missing = [file for file in kept if not (made / file).is_file()]
    if missing:
        sys.exit(f"error: {made} has no {', '.join(missing)}; correct {one.experiment}/experiment.yaml.")
    for file, name in kept.items():
        shutil.copyfile(made / file, FOLDER / one.experiment / name)


def _python(command: Sequence[str]) -> None:
    """Run Python, and end with its status if it fails. Ctrl-C and SIGTERM let the command keep its work."""
    print(shlex.join(["python", *command]), flush=True)
    started: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        # The terminal sends Ctrl-C to the command itself, too.
        if number == signal.SIGTERM and started:
            started[0].terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        started.append(subprocess.Popen([sys.executable, *command]))
        if signal.SIGTERM in stopped:
            started[0].terminate()
        status = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status:
        # The command has said why. 75 asks for the same command again.
        sys.exit(status if status > 0 else 128 - status)


def chosen(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The named experiments, by default all that take minutes, and the overrides; exits for unknown names."""
    overrides = [word for word in words if "=" in word]
    wanted = [word for word in words if "=" not in word]
    wanted = wanted or [name for name in names() if not takes_hours(name)]
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        sys.exit(f"error: {', '.join(unknown)} is no experiment; choose from {', '.join(names())}.")
    return wanted, overrides


def main() -> None:
    """Run the named experiments, or all that take minutes."""
    wanted, overrides = chosen(sys.argv[1:])
    if Path.cwd() != FOLDER.resolve().parent:
        # The paths in an experiment.yaml are relative to it.
        sys.exit(f"error: start it in the folder of the repository: cd {FOLDER.resolve().parent}")
    for name in wanted:
        run(name, overrides)


if __name__ == "__main__":
    main()
