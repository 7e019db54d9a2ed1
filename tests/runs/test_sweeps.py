"""Sweeps: runs are named by what they compute, made once, gone on with, and do not stop each other."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from mar_accel.config.compose import compose_settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.evaluation import baseline_store
from mar_accel.runs.folder import IDENTITY_FILE, claim_run_folder, share_images
from mar_accel.runs.identity import Identity
from mar_accel.runs.sweep_result import DONE, RunResult
from mar_accel.runs.sweep_summary import write_summary
from mar_accel.utils.images import image_name
from mar_accel.utils.json_files import write_json

FEW = ["dataset.num_images=4", "trainer.batch_size=2"]
EVALUATION = [
    *("reference.augmentations=0", "evaluate.fidelity_images=4", "evaluate.timing_rounds=0"),
    *("evaluate.profile=false", "evaluate.baseline_sampler.num_iter=5"),
    "evaluate.baseline_sampler.num_diffusion_steps=3",
]


def _runs(sweep: Path, file: str = "run.json") -> list[dict[str, Any]]:
    """Records of the finished runs."""
    return [json.loads(path.read_text()) for path in sorted(sweep.glob(f"*/{file}"))]


def _identity(command: str, *overrides: str) -> Identity:
    return Identity.of(compose_settings(command, overrides))


def _summary(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_same_command_again_makes_nothing_again(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, *FEW, f"hydra.sweep.dir={tmp_path}"]
    first = run_here("generate", *sweep, "seed=0,1")
    assert first.status == 0 and "2 done" in first.stdout
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*") if file.is_file()}
    second = run_here("generate", *sweep, "seed=0,1,2", "trainer.batch_size=4")
    assert second.status == 0 and "1 done, 2 skipped" in second.stdout
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert [run["status"] for run in _summary(tmp_path)] == ["skipped", "skipped", "done"]
    assert [run["seed"] for run in _summary(tmp_path)] == ["0", "1", "2"]
    assert {run["identity"]["images"] for run in _runs(tmp_path)} == {
        _identity("generate", *tiny_model, *FEW, f"seed={seed}").images_hash for seed in range(3)
    }
    assert not list((tmp_path / ".results").iterdir())


def test_a_swept_key_that_is_also_recorded_is_one_column(tmp_path: Path) -> None:
    results = [
        RunResult(n, (f"seed={n}",), DONE, "run.json", metrics={"seed": n, "fid": 2.5}) for n in range(2)
    ]
    write_summary(results, tmp_path / "sweep.csv")
    heading, first, _ = (tmp_path / "sweep.csv").read_text().splitlines()
    assert heading.split(",").count("seed") == 1
    assert dict(zip(heading.split(","), first.split(","), strict=True))["fid"] == "2.5"


def test_identities_are_nested(tiny_model: list[str]) -> None:
    """What changes images changes what is found and measured of them, but not the other way round."""
    plain = _identity("evaluate", *tiny_model)

    def changed(*overrides: str) -> tuple[bool, bool, bool]:
        other = _identity("evaluate", *tiny_model, *overrides)
        return (
            other.images_hash != plain.images_hash,
            other.evaluation_hash != plain.evaluation_hash,
            other.measurement_hash != plain.measurement_hash,
        )

    for nothing in ("output_dir=x", "logger=csv", "evaluate.resume=true"):
        assert changed(nothing) == (False, False, False), nothing
    for conditions in (
        *("trainer.devices=2", "trainer.batch_size=3", "evaluate.timing_rounds=7", "callbacks=default"),
    ):
        assert changed(conditions) == (False, False, True), conditions
    for judging in (
        "evaluate.lpips=true",
        "dataset.num_images=7",
        "features=none",
        "reference.augmentations=3",
    ):
        assert changed(judging) == (False, True, True), judging
    for images in ("seed=1", "cache=lazymar", "trainer.precision=bf16-true", "sampler.guidance_scale=2"):
        assert changed(images) == (True, True, True), images
    assert changed("sampler.guidance_scale=4") == (False, False, False), "4 is 4.0"
    adaptive = ["cache=lazymar", "cache/refresh=adaptive"]
    for batches in ("trainer.batch_size=3", "trainer.devices=2"):
        one, other = (_identity("generate", *tiny_model, *adaptive, *more) for more in ((), (batches,)))
        assert one.images_hash != other.images_hash, "a batch refreshes together"


def test_names_depend_on_the_content_of_weights(
    tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "digits").mkdir(parents=True)
    files = (tmp_path / "w.safetensors", tmp_path / "digits" / "model.safetensors")
    for weights, file in zip(("~/w.safetensors", "./digits"), files, strict=True):
        names = []
        for content in (b"one", b"two", b"one"):
            file.write_bytes(content)
            names.append(_identity("generate", *tiny_model, f"model.weights='{weights}'").images_hash)
        (tmp_path / "digits" / "other.bin").write_bytes(b"is not read")
        names.append(_identity("generate", *tiny_model, f"model.weights='{weights}'").images_hash)
        assert names[0] == names[2] == names[3] != names[1], weights


def test_scale_of_an_autoencoder_counts(tiny_model: list[str], tmp_path: Path) -> None:
    names = []
    for factor in (0.2, 0.3, 0.2):
        config = {"_class_name": "AutoencoderKL", "scaling_factor": factor}
        (tmp_path / "config.json").write_text(json.dumps(config))
        names.append(_identity("generate", "model=mar_base", f"model.weights={tmp_path}").images_hash)
    assert names[0] == names[2] != names[1]


def test_images_of_weights_that_have_changed_are_not_gone_on_with(
    tiny_model: list[str], tmp_path: Path
) -> None:
    weights, folder = tmp_path / "w.safetensors", tmp_path / "run"
    weights.write_bytes(b"one")
    folder.mkdir()
    settings = compose_settings("generate", [*tiny_model, f"model.weights='{weights}'"])
    claim_run_folder(folder, settings, Identity.of(settings))
    (folder / "images").mkdir()
    (folder / "images" / "000000.png").touch()
    claim_run_folder(folder, settings, Identity.of(settings))
    weights.write_bytes(b"two")
    with pytest.raises(ConfigError, match="images of other weights"):
        claim_run_folder(folder, settings, Identity.of(settings))


def test_a_run_out_of_memory_does_not_stop_the_others(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mar_accel.runs import generation as command

    generate = command.generate

    def greedy(settings: Any, before_sampling: Any) -> Any:
        if settings.seed == 1:
            raise torch.OutOfMemoryError("no more")
        return generate(settings, before_sampling)

    monkeypatch.setattr(command, "generate", greedy)
    sweep = ["-m", *tiny_model, *FEW, "seed=0,1,2", f"hydra.sweep.dir={tmp_path}"]
    outcome = run_here("generate", *sweep)
    assert outcome.status == 2 and "run 1 failed: OutOfMemoryError: no more" in outcome.stdout
    assert [run["status"] for run in _summary(tmp_path)] == ["done", "failed", "done"]
    (report,) = tmp_path.glob("*.error.txt")
    assert "Traceback" in report.read_text()
    # Failed runs are tried again.
    monkeypatch.setattr(command, "generate", generate)
    outcome = run_here("generate", *sweep)
    assert outcome.status == 0 and "1 done, 2 skipped" in outcome.stdout
    assert not list(tmp_path.glob("*.error.txt")), "what was wrong is no longer"


@pytest.mark.parametrize("digits", ["0123456789014567", "12e4567890123456"])
def test_the_name_of_a_sweep_reaches_its_jobs_as_it_is(
    digits: str, run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of digits alone reached them as a number, and their results were then not found."""
    name = uuid.UUID(hex=digits * 2)
    monkeypatch.setattr(uuid, "uuid4", lambda: name)
    outcome = run_here("generate", "-m", *tiny_model, *FEW, f"hydra.sweep.dir={tmp_path}", "seed=0,1")
    assert outcome.status == 0 and "2 done" in outcome.stdout, outcome.stderr


def test_one_folder_for_many_runs_is_refused(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = ["-m", *tiny_model, *FEW, "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    outcome = run_here("generate", *arguments, f"output_dir={tmp_path / 'one'}")
    assert outcome.status == 2 and "hydra.sweep.dir" in outcome.stderr and not (tmp_path / "one").exists()


def test_jobs_of_other_commands_have_a_folder_each(run_here: Any, tmp_path: Path) -> None:
    sweep = ["-m", "sampler=mar,gtr", "plan.flops=false", f"hydra.sweep.dir={tmp_path}"]
    assert run_here("plan", *sweep).status == 0
    assert [bool(list((tmp_path / job).iterdir())) for job in ("0", "1")] == [True, True]


def test_runs_share_the_unaccelerated_samples(
    run_here: Any, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = []
    save = baseline_store.save_tensors
    monkeypatch.setattr(
        baseline_store, "save_tensors", lambda tensors, file: (sampled.append(file), save(tensors, file))
    )
    arguments = [*tiny_model, *FEW, *EVALUATION, f"reference.cache_dir={tmp_path / 'statistics'}"]
    sweep = ["-m", *arguments, "sampler=mar,gtr", "cache=none,head", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert run_here("evaluate", *sweep).status == 0
    runs = _runs(tmp_path / "sweep", "metrics.json")
    assert len(runs) == 4 and len({run["baseline"] for run in runs}) == 1 and len(sampled) == 1
    # The same as without sharing.
    arguments = [*arguments, "sampler=gtr", "cache=head", f"output_dir={tmp_path / 'alone'}"]
    assert run_here("evaluate", *arguments).status == 0
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert any(run["psnr"] == alone["psnr"] and run["latent_mse"] == alone["latent_mse"] for run in runs)


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [
        ([], 3),
        (["dataset.num_images=2"], 2),
        (["evaluate.save_images=false"], 0),
        (["cache=lazymar", "cache/refresh=adaptive"], 0),
    ],
    ids=["all", "fewer", "none kept", "decided per batch"],
)
def test_equal_images_are_shared_where_they_may(
    overrides: list[str],
    shared: int,
    tiny_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = compose_settings("evaluate", [*tiny_model, "dataset.num_images=4", *overrides])
    identity = Identity.of(settings)
    (tmp_path / "first" / "images").mkdir(parents=True)
    write_json({"images": identity.images, "revisions": []}, tmp_path / "first" / IDENTITY_FILE)
    for index in range(3):
        (tmp_path / "first" / "images" / image_name(index)).write_bytes(b"image")
    # An image that the other run removes meanwhile is no reason to fail.
    monkeypatch.setattr("mar_accel.runs.folder.image_indices", lambda folder: range(4))
    share_images(tmp_path, tmp_path / "second", identity, settings)
    assert len(list((tmp_path / "second").glob("images/*.png"))) == shared


def test_a_run_that_another_sweep_is_at_is_left_to_it(
    run_here: Any, tiny_model: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *tiny_model, *FEW, "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert run_here("generate", *sweep).status == 0
    folder = next(tmp_path.glob("*/run.json")).parent
    record = (folder / "run.json").read_text()
    for finishes, status in ((False, 2), (True, 0)):
        (folder / "run.json").unlink()
        held, ended = threading.Event(), threading.Event()

        def be_at_it(
            finishes: bool = finishes, held: threading.Event = held, ended: threading.Event = ended
        ) -> None:
            with FileLock(tmp_path / ".locks" / f"{folder.name}.lock"):
                held.set()
                # Until both runs of the sweep have said how they ended: this one, that it is left alone.
                while len(list(tmp_path.glob(".results/*/*.json"))) < 2 and not ended.is_set():
                    time.sleep(0.02)
                if finishes:
                    (folder / "run.json").write_text(record)

        other = threading.Thread(target=be_at_it)
        other.start()
        held.wait()
        try:
            outcome = run_here("generate", *sweep)
        finally:
            ended.set()
            other.join()
        assert outcome.status == status, outcome.stdout
        assert ("1 skipped, 1 elsewhere" if finishes else "did not finish it") in outcome.stdout
        (folder / "run.json").write_text(record)


def test_generate_goes_on_with_whole_batches(run_here: Any, tiny_model: list[str], tmp_path: Path) -> None:
    arguments = [*tiny_model, "dataset.num_images=7", "trainer.batch_size=2", f"output_dir={tmp_path}"]
    assert run_here("generate", *arguments).status == 0
    files = sorted((tmp_path / "images").glob("*.png"))
    content = [file.read_bytes() for file in files]
    (tmp_path / "run.json").unlink()
    files[3].unlink()
    before = [file.stat().st_mtime_ns if file.exists() else None for file in files]
    outcome = run_here("generate", *arguments, "generate.resume=true")
    assert outcome.status == 0 and "2 images in" in outcome.stdout and "5 were there" in outcome.stdout
    made = [file.stat().st_mtime_ns != time for file, time in zip(files, before, strict=True)]
    assert made == [index in (2, 3) for index in range(7)]
    assert [file.read_bytes() for file in files] == content
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["num_images"], record["num_sampled"]) == (7, 2)
    # Where nothing is missing there is no speed either.
    (tmp_path / "run.json").unlink()
    assert run_here("generate", *arguments, "generate.resume=true").status == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["num_sampled"] == 0 and "images_per_second" not in record


def test_what_is_left_of_a_run_is_whole_batches_and_enough_for_all_processes(tiny_model: list[str]) -> None:
    settings = compose_settings("generate", [*tiny_model, "dataset.num_images=11", "trainer.batch_size=4"])
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)

    def left(finished: list[int], processes: int = 1) -> list[int]:
        return list(requests.without(finished, processes).requests.indices)

    assert left([]) == list(range(11))
    assert left(list(range(11))) == left(list(range(11)), 3) == []
    assert left([0, 1, 2, 3, 5, 9]) == [4, 5, 6, 7, 8, 9, 10]
    assert left([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) == [8, 9, 10]
    assert len(left([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 5)) >= 5


Start = Callable[..., "subprocess.Popen[str]"]


def _sweep(tiny_model: list[str], folder: Path, seeds: str = "0,1,2") -> list[str]:
    """Four runs per seed."""
    return [
        *("-m", *tiny_model, *EVALUATION, "dataset.num_images=40", "trainer.batch_size=4"),
        *("evaluate.fidelity_images=8", f"reference.cache_dir={folder.parent / 'statistics'}"),
        *("sampler=mar,gtr", "cache=none,lazymar", f"seed={seeds}", f"hydra.sweep.dir={folder}"),
    ]


def _finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def _results(sweep: Path) -> dict[str, Any]:
    """Everything that does not depend on time: files by name, and numbers."""
    timed = ("latency", "throughput", "peak", "achieved", "speedup", "batch_size")
    results: dict[str, Any] = {}
    for folder in sorted(file.parent for file in sweep.glob("*/metrics.json")):
        names = [*(folder / "images").glob("*.png"), folder / "grid.png", folder / "samples.png"]
        names += [folder / "tokens.safetensors", folder / "fidelity.csv", folder / "comparison.png"]
        results |= {f"{folder.name}/{file.name}": file.read_bytes() for file in names}
        metrics = json.loads((folder / "metrics.json").read_text())
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        results[folder.name] = {key: value for key, value in numbers.items() if not key.startswith(timed)}
    return results


@pytest.mark.long
def test_a_sweep_killed_at_random_moments_ends_as_an_undisturbed_one(
    start: Start, tiny_model: list[str], tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    status, _, stderr = _finish(start(tmp_path, "evaluate", *_sweep(tiny_model, undisturbed)))
    assert status == 0, stderr
    chance, finished, kills = random.Random(0), dict[Path, int](), 0
    while True:
        process = start(tmp_path, "evaluate", *_sweep(tiny_model, killed))
        # At least one more run is finished each time, so that the test ends.
        goal = len(list(killed.glob("*/images/*.png"))) + chance.randrange(45, 150)
        while process.poll() is None and len(list(killed.glob("*/images/*.png"))) < goal:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.communicate()
        kills += 1
        for file in killed.glob("*/metrics.json"):
            assert finished.setdefault(file, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
    status, stdout, stderr = _finish(process)
    assert status == 0, stderr
    assert kills >= 2 and "skipped" in stdout
    assert all(file.stat().st_mtime_ns == made for file, made in finished.items()), "made twice"
    ours, theirs = _results(killed), _results(undisturbed)
    assert len(list(killed.glob("*/metrics.json"))) == 12
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not list(killed.glob("*/.tokens"))


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_runs(start: Start, tiny_model: list[str], tmp_path: Path) -> None:
    sweep = _sweep(tiny_model, tmp_path / "sweep", seeds="0")
    processes = [start(tmp_path, "evaluate", *sweep) for _ in range(2)]
    # Both are read at once: one whose pipe is full would stop, and the other would wait for it.
    with ThreadPoolExecutor() as readers:
        outcomes = list(readers.map(_finish, processes))
    assert [status for status, _, _ in outcomes] == [0, 0], outcomes
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 4
    done = [_count(stdout, "done") for _, stdout, _ in outcomes]
    assert sum(done) == 4, "every run was made once"
    shutil.rmtree(tmp_path / "sweep")


# As test_a_process_that_fails_ends_its_run_of_a_sweep_alone, but the first process fails.
@pytest.mark.long
def test_a_run_that_fails_on_two_devices_does_not_stop_the_others(
    start: Start, tiny_model: list[str], tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(
        "from mar_accel.sampling.policy import NoCache\n"
        "class Greedy(NoCache):\n"
        "    def start(self, *_):\n"
        "        raise ArithmeticError('no more')\n"
    )
    sweep = ["-m", *tiny_model, "trainer=ddp_cpu", "dataset.num_images=24", "trainer.batch_size=1"]
    # The others take longer than Lightning needs to see that processes of the failed run are gone.
    sweep += ["cache._target_=failing.Greedy,mar_accel.sampling.policy.NoCache", "seed=0,1"]
    status, stdout, stderr = _finish(start(tmp_path, "generate", *sweep, "hydra.sweep.dir=sweep"))
    assert status == 2, stderr
    assert "run 0, 1 failed: ArithmeticError: no more" in stdout and "2 done, 2 failed" in stdout
    assert len(list((tmp_path / "sweep").glob("*/run.json"))) == 2


def _count(stdout: str, status: str) -> int:
    """The number before a status in the last line of a sweep."""
    words = stdout.strip().splitlines()[-1].replace(",", "").replace(":", "").split()
    return int(words[words.index(status) - 1]) if status in words else 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", {"fid": "low"}),
        ("metrics.json", {"recognised": 7}),
        ("metrics.json", {}),
        ("run.json", {"config": []}),
        ("run.json", {"config": {"seed": 0}, "hardware": "x"}),
        ("run.json", {"a": 1}),
    ],
)
def test_a_run_with_a_damaged_record_is_not_finished(
    file: str, content: dict[str, Any], tmp_path: Path
) -> None:
    records = {"metrics.json": {"fid": 2.0}, "run.json": {"config": {"seed": 0}}}
    result = RunResult(0, (), DONE, "metrics.json", folder=str(tmp_path))
    for name, whole in records.items():
        (tmp_path / name).write_text(json.dumps(whole))
    assert result.record == tmp_path / "metrics.json"
    (tmp_path / file).write_text(json.dumps(content))
    assert result.record is None
