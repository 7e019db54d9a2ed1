"""The run folder; it belongs to one image identity, so that images of two configs are never mixed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.runs.identity import Identity, decides_per_batch, differences
from mar_accel.runs.record import git_revision, prepare_output_dir, write_json
from mar_accel.utils.ranks import is_first_process
from mar_accel.utils.whole_files import written_whole

IMAGES, CONFIG_FILE, RECORD_FILE = "images", "config.yaml", "run.json"
# The image identity of an unfinished run, and the code revisions that may have made its images. A finished
# run stores both in its record.
IDENTITY_FILE = ".identity.json"


def claim_run_folder(
    output_dir: Path, settings: Settings, identity: Identity, records: Sequence[str] = (RECORD_FILE,)
) -> None:
    """Create the run folder, or reuse the folder of an earlier run with the same image identity.

    Afterwards it contains ``config.yaml`` and no record of a finished run.
    Images of the earlier run stay.
    Only the first process changes anything.

    Args:
        output_dir: absolute path of the folder.
        settings: settings of the run.
        identity: identity of the run.
        records: names of the records, in the order of removal.

    Raises:
        ConfigError: the folder cannot be written, or contains images of another config.
    """
    if not is_first_process():
        return
    _check_images(output_dir, settings, identity)
    prepare_output_dir(output_dir)
    for leftover in (output_dir / IMAGES).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    revisions = list(dict.fromkeys([*_revisions(output_dir), git_revision()]))
    write_json({"images": identity.images, "revisions": revisions}, output_dir / IDENTITY_FILE)
    for name in records:
        (output_dir / name).unlink(missing_ok=True)
    write_config(settings, output_dir)


def write_config(settings: Settings, output_dir: Path, name: str = CONFIG_FILE) -> None:
    """Write the config as YAML, atomically."""
    with written_whole(output_dir / name) as temporary:
        OmegaConf.save(OmegaConf.create(settings.plain()), temporary)


def write_run_record(record: dict[str, Any], output_dir: Path, images_kept: bool = False) -> None:
    """Write ``run.json``, which marks a run as finished.

    Args:
        record: the record; see :func:`mar_accel.runs.record.run_record`.
        output_dir: the run folder.
        images_kept: whether images of earlier runs were kept.
            The code revisions that may have made them are then recorded as ``earlier_revisions``.
    """
    revisions, own = _revisions(output_dir), record["git_revision"]
    earlier = [revision for revision in revisions if revision != own] if images_kept else []
    if earlier:
        record = {**record, "earlier_revisions": earlier}
    content = read_json(output_dir / IDENTITY_FILE).get("images")
    if content is not None:
        record = {**record, "identity": {**record["identity"], "content": content}}
    write_json(record, output_dir / RECORD_FILE)
    (output_dir / IDENTITY_FILE).unlink(missing_ok=True)


def image_indices(output_dir: Path) -> list[int]:
    """Sample indices of the existing images in a run folder."""
    return [int(file.stem) for file in (output_dir / IMAGES).glob("*.png") if file.stem.isdigit()]


def kept_images(output_dir: Path, settings: Settings, num_processes: int) -> set[int]:
    """Sample indices of existing images that need not be sampled again.

    With adaptive refresh and several processes, missing images would end up in other batches than before.
    All images are then sampled again.
    """
    there = set(image_indices(output_dir))
    dealt_again = num_processes > 1 and len(there) < settings.dataset.num_images
    return set() if decides_per_batch(settings) and dealt_again else there


def share_images(sweep_dir: Path, folder: Path, identity: Identity, num_images: int) -> None:
    """Link images of another run of the sweep with the same image identity into a new run folder.

    Args:
        sweep_dir: folder that contains the run folders of the sweep.
        folder: the new run folder.
        identity: identity of the new run.
        num_images: images with a smaller sample index are linked.
    """
    if image_indices(folder):
        return
    for images in sorted(sweep_dir.glob(f"*/{IMAGES}")):
        other = images.parent
        content = images_identity(other)
        if other == folder or content is None or differences(content, identity.images):
            continue
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        write_json({"images": content, "revisions": _revisions(other)}, folder / IDENTITY_FILE)
        for tokens in (*other.glob("tokens.safetensors"), *other.glob(".tokens/*.safetensors")):
            _link(tokens, folder / tokens.relative_to(other))
        for index in image_indices(other):
            if index < num_images:
                image = other / IMAGES / f"{index:06d}.png"
                _link(image, folder / IMAGES / image.name)
        return


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def images_identity(output_dir: Path) -> dict[str, Any] | None:
    """Identity of the images in a finished or unfinished run folder; None if unknown."""
    unfinished = read_json(output_dir / IDENTITY_FILE).get("images")
    found = unfinished or read_json(output_dir / RECORD_FILE).get("identity", {}).get("content")
    if found is not None:
        return found
    # Without both (perhaps the record was removed by hand), the config and the current files count.
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(output_dir / CONFIG_FILE))
        return Identity.of(check_settings(Settings, config)).images
    except Exception:  # a torn file may raise anything
        return None


def _revisions(output_dir: Path) -> list[str | None]:
    """Code revisions that may have made the images, oldest first; None stands for "no checkout"."""
    if not image_indices(output_dir):
        return []
    record = read_json(output_dir / RECORD_FILE)
    finished = [*record.get("earlier_revisions", []), record.get("git_revision")] if record else []
    return [*finished, *read_json(output_dir / IDENTITY_FILE).get("revisions", [])]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_images(output_dir: Path, settings: Settings, identity: Identity) -> None:
    """Raise ConfigError if the folder has images of another identity, or more than this run makes."""
    indices = image_indices(output_dir)
    if not indices:
        return
    advice = "choose another folder or remove this one"
    there = images_identity(output_dir)
    if there is None:
        raise ConfigError(
            f"output_dir={output_dir} has images but no {CONFIG_FILE} that describes them; {advice}."
        )
    for key, theirs, ours in differences(there, identity.images):
        if key.startswith("weights."):
            raise ConfigError(
                f"output_dir={output_dir} has images of other weights: the content of "
                f"model.weights={settings.model.weights} has changed; {advice}."
            )
        raise ConfigError(
            f"output_dir={output_dir} has images of another config ({key} is {theirs} there and {ours} "
            f"here); {advice}."
        )
    if max(indices) >= settings.dataset.num_images:
        raise ConfigError(
            f"output_dir={output_dir} has images up to index {max(indices)}, more than "
            f"dataset.num_images={settings.dataset.num_images} makes; {advice}."
        )
