"""The run folder of generate: it belongs to one config, so that images of two are never mixed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.errors import ConfigError
from mar_accel.runs.fingerprints import model_fingerprint
from mar_accel.runs.identity import MODEL_DEFAULTS, decides_per_batch
from mar_accel.runs.record import git_revision, prepare_output_dir, write_json
from mar_accel.utils.whole_files import written_whole

IMAGES, CONFIG_FILE, RECORD_FILE = "images", "config.yaml", "run.json"
# Revisions of the code that may have made images of an unfinished run, oldest first.
_REVISIONS_FILE = ".revisions.json"
# What the weights held that an unfinished run's images are of.
_WEIGHTS_FILE = ".weights.json"
# What decides the image of a sample index. The number of images never does; how many at a time does only
# where a whole batch decides together when the cache is refreshed.
_IDENTITY = ("seed", "model", "sampler", "cache", "dataset", "trainer.precision")
_IDENTITY_PER_BATCH = (*_IDENTITY, "trainer.batch_size", "trainer.devices")
_NOT_IDENTITY = ("dataset.num_images", "dataset.training_data", *MODEL_DEFAULTS)


def claim_run_folder(output_dir: Path, config: DictConfig, records: Sequence[str] = (RECORD_FILE,)) -> Path:
    """Make the run folder, or take over that of an earlier, perhaps interrupted, run of the same config.

    Afterwards it holds ``config.yaml``, none of the records that only a finished run has, and perhaps images
    that this run would make too. Only the first process changes anything.

    Args:
        output_dir: absolute path of the folder.
        config: the composed config of the run.
        records: names of the records, in the order in which they are removed.

    Raises:
        ConfigError: the folder cannot be written, or has images that this config would not make.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return output_dir
    _check_images(output_dir, config)
    prepare_output_dir(output_dir)
    for leftover in (output_dir / IMAGES).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    write_json(_unique([*_revisions(output_dir), git_revision()]), output_dir / _REVISIONS_FILE)
    write_json(model_fingerprint(config), output_dir / _WEIGHTS_FILE)
    for name in records:
        (output_dir / name).unlink(missing_ok=True)
    write_config(config, output_dir)
    return output_dir


def write_config(config: DictConfig, output_dir: Path) -> None:
    """Write ``config.yaml`` through a temporary name, so that a kill leaves no half file."""
    with written_whole(output_dir / CONFIG_FILE) as temporary:
        OmegaConf.save(config, temporary, resolve=True)


def write_run_record(record: dict[str, Any], output_dir: Path, images_kept: bool = False) -> None:
    """Write ``run.json``, the sign of a finished run.

    Args:
        record: see :func:`mar_accel.runs.record.run_record`.
        images_kept: whether images of earlier runs were left as they are. The revisions of the code that may
            have made them then become the record's ``earlier_revisions``: its own does not speak for them.
    """
    earlier = [revision for revision in _revisions(output_dir) if revision != record["git_revision"]]
    if images_kept and earlier:
        record = {**record, "earlier_revisions": earlier}
    weights = _read_json(output_dir / _WEIGHTS_FILE, {})
    write_json({**record, "weights": weights}, output_dir / RECORD_FILE)
    for name in (_REVISIONS_FILE, _WEIGHTS_FILE):
        (output_dir / name).unlink(missing_ok=True)


def image_indices(output_dir: Path) -> list[int]:
    """Sample indices of the images that are there."""
    return [int(file.stem) for file in (output_dir / IMAGES).glob("*.png") if file.stem.isdigit()]


def kept_images(output_dir: Path, config: DictConfig, num_processes: int) -> set[int]:
    """Sample indices of the images in a claimed folder that need not be sampled again.

    None of them where batches decide together and several processes share them: what is left would be dealt
    out to other batches than before.
    """
    there = set(image_indices(output_dir))
    dealt_out_anew = num_processes > 1 and len(there) < config.dataset.num_images
    return set() if decides_per_batch(config) and dealt_out_anew else there


def _revisions(output_dir: Path) -> list[str | None]:
    """Revisions of the code that may have made the folder's images, oldest first; None: no checkout."""
    if not image_indices(output_dir):
        return []
    record = _read_json(output_dir / RECORD_FILE, {})
    finished = [*record.get("earlier_revisions", []), record.get("git_revision")] if record else []
    return _unique([*finished, *_read_json(output_dir / _REVISIONS_FILE, [])])


def _read_json(file: Path, default: Any) -> Any:
    """What a file holds; the default where there is none, or it is damaged or of another kind."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return default
    return content if isinstance(content, type(default)) else default


def _unique(revisions: list[str | None]) -> list[str | None]:
    return list(dict.fromkeys(revisions))


def _check_images(output_dir: Path, config: DictConfig) -> None:
    """Refuse a folder whose images are of another config, or more than this run makes."""
    indices = image_indices(output_dir)
    if not indices:
        return
    advice = "choose another folder or remove this one"
    try:
        earlier = OmegaConf.load(output_dir / CONFIG_FILE)
    except (OSError, ValueError, OmegaConfBaseException):
        raise ConfigError(
            f"output_dir={output_dir} has images but no {CONFIG_FILE} that says what they are; {advice}."
        ) from None
    there, here = _identity(earlier), _identity(config)
    for key in sorted({*there, *here}):
        if there.get(key) != here.get(key):
            raise ConfigError(
                f"output_dir={output_dir} has images of another config ({key} is {there.get(key)} there and "
                f"{here.get(key)} here); {advice}."
            )
    weights = model_fingerprint(config)
    recorded = _read_json(output_dir / RECORD_FILE, {}).get("weights", weights)
    if _read_json(output_dir / _WEIGHTS_FILE, recorded) != weights:
        raise ConfigError(
            f"output_dir={output_dir} has images of other weights: what model.weights={config.model.weights} "
            f"names has changed since; {advice}."
        )
    if max(indices) >= config.dataset.num_images:
        raise ConfigError(
            f"output_dir={output_dir} has images up to index {max(indices)}, more than "
            f"dataset.num_images={config.dataset.num_images} makes; {advice}."
        )


def _identity(config: Any) -> dict[str, Any]:
    """What decides the images, as values by dotted key."""
    values: dict[str, Any] = {}
    for key in _IDENTITY_PER_BATCH if decides_per_batch(config) else _IDENTITY:
        _flatten(key, OmegaConf.select(config, key), values)
    return {key: value for key, value in values.items() if not key.startswith(_NOT_IDENTITY)}


def _flatten(key: str, node: Any, values: dict[str, Any]) -> None:
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        for name, value in node.items():
            _flatten(f"{key}.{name}", value, values)
    else:
        values[key] = node
