"""The run folder; it belongs to one image identity, so that images of two configs are never mixed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.data.run_files import CONFIG_FILE, IMAGES, RECORD_FILE, TOKENS_FILE
from mar_accel.data.run_images import RunImages, image_indices
from mar_accel.data.shards import FORMATS, formats_in
from mar_accel.errors import ConfigError, IncompleteError
from mar_accel.runs.identity import Identity, config_key, decides_per_batch, differences
from mar_accel.runs.record import git_revision
from mar_accel.runs.stored import read_record
from mar_accel.utils.images import image_name
from mar_accel.utils.json_files import read_json, write_json
from mar_accel.utils.links import link_or_copy
from mar_accel.utils.ranks import is_first_process
from mar_accel.utils.whole_files import written_whole

# The image identity of an unfinished run, and the code revisions that may have made its images. A finished
# run stores both in its record.
IDENTITY_FILE = ".identity.json"


def images_of(settings: Settings, output_dir: Path) -> RunImages:
    """The images of a run in the format of its config."""
    return FORMATS[settings.image_format](output_dir)


def claim_run_folder(output_dir: Path, settings: Settings, identity: Identity) -> None:
    """Take over the run folder, perhaps from an earlier run with the same image identity.

    Afterwards it contains ``config.yaml``. Images and records of the earlier run stay:
    :class:`mar_accel.inference.writer.ImageWriter` removes the records before the first new image.
    Only the first process changes anything.

    Args:
        output_dir: absolute path of the folder, which exists and is locked.
        settings: settings of the run.
        identity: identity of the run.

    Raises:
        ConfigError: the folder contains images of another config.
    """
    if not is_first_process():
        return
    _check_images(output_dir, settings, identity)
    images_of(settings, output_dir).remove_leftovers()
    revisions = list(dict.fromkeys([*_revisions(output_dir), git_revision()]))
    write_json({"images": identity.images, "revisions": revisions}, output_dir / IDENTITY_FILE)
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


def kept_images(
    images: RunImages, settings: Settings, num_processes: int, image_shape: Sequence[int]
) -> set[int]:
    """Sample indices of existing images that need not be sampled again.

    An image counts if it can be decoded and has the expected size and mode.
    With adaptive refresh and several processes, missing images would end up in other batches than before.
    All images are then sampled again.

    Args:
        images: the images of the run.
        settings: settings of the run.
        num_processes: number of processes that will sample the missing images.
        image_shape: shape [1 or 3, H, W] of an image.
    """
    there = images.whole(image_shape)
    dealt_again = num_processes > 1 and len(there) < settings.dataset.num_images
    return set() if decides_per_batch(settings) and dealt_again else there


def require_finite(not_finite: Sequence[tuple[int, int]], num_images: int, where: str) -> None:
    """Raise IncompleteError if samples are NaN or infinite.

    Args:
        not_finite: sample indices and labels of these samples.
        num_images: number of images of the run.
        where: start of the message, such as "output_dir=FOLDER".
    """
    if not_finite:
        named = _some([f"index {index} (label {label})" for index, label in not_finite])
        raise IncompleteError(
            f"{where} lacks {len(not_finite)} of {num_images} images, because their samples are NaN or "
            f"infinite: {named}; lower sampler.guidance_scale or use trainer.precision=32-true."
        )


def require_complete(images: RunImages, num_images: int) -> None:
    """Check that a run has exactly the images 0 to N − 1, and write their names to disk.

    Args:
        images: the images of the run.
        num_images: number of images N.

    Raises:
        IncompleteError: images are missing or too many.
    """
    there, where = set(images.indices()), f"output_dir={images.output_dir}"
    missing = [str(index) for index in range(num_images) if index not in there]
    if missing:
        raise IncompleteError(
            f"{where} lacks {len(missing)} of {num_images} images, which were removed while "
            f"the run was sampling: index {_some(missing)}; run the same command again with resume=true."
        )
    if len(there) > num_images:
        raise IncompleteError(
            f"{where} has {len(there)} images, of an earlier run or of another process, but "
            f"this run makes {num_images}; choose another folder, or dataset.num_images={len(there)}."
        )
    images.sync()


def _some(names: Sequence[str], shown: int = 10) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def share_images(sweep_dir: Path, folder: Path, identity: Identity, settings: Settings) -> None:
    """Link images of another run of the sweep with the same image identity into a new run folder.

    Nothing is shared if the run keeps no images, or if images depend on the others of their batch.

    Args:
        sweep_dir: folder that contains the run folders of the sweep.
        folder: the new run folder.
        identity: identity of the new run.
        settings: settings of the new run; it gets the images that it makes.
    """
    keeps_none = settings.command == "evaluate" and not settings.evaluate.save_images
    if formats_in(folder) or keeps_none or decides_per_batch(settings):
        return
    num_images = settings.dataset.num_images
    for images in sorted(sweep_dir.glob(f"*/{IMAGES}")):
        other = images.parent
        content = images_identity(other)
        if other == folder or content is None or differences(content, identity.images):
            continue
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        write_json({"images": content, "revisions": _revisions(other)}, folder / IDENTITY_FILE)
        files = [*other.glob(TOKENS_FILE), *other.glob(".tokens/*.safetensors")]
        files += [images / image_name(index) for index in image_indices(other) if index < num_images]
        for file in files:
            # The other run may remove it meanwhile.
            with suppress(FileNotFoundError):
                link_or_copy(file, folder / file.relative_to(other))
        return


def images_identity(output_dir: Path) -> dict[str, Any] | None:
    """Identity of the images in a finished or unfinished run folder; None if unknown."""
    unfinished = read_json(output_dir / IDENTITY_FILE).get("images")
    found = unfinished or (read_record(output_dir / RECORD_FILE).get("identity") or {}).get("content")
    if found is not None:
        return found
    # Without both (perhaps the record was removed by hand), the config and the current files count.
    if not os.path.isfile(output_dir / CONFIG_FILE):
        return None
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(output_dir / CONFIG_FILE))
        return Identity.of(check_settings(Settings, config)).images
    except Exception:  # a torn file may raise anything
        return None


def _revisions(output_dir: Path) -> list[str | None]:
    """Code revisions that may have made the images, oldest first; None stands for "no checkout"."""
    if not formats_in(output_dir):
        return []
    record = read_record(output_dir / RECORD_FILE)
    finished = [*(record.get("earlier_revisions") or []), record.get("git_revision")] if record else []
    return [*finished, *read_json(output_dir / IDENTITY_FILE).get("revisions", [])]


def _changed_content(key: str, settings: Settings) -> str | None:
    """Words for a key of an identity that stands for the content of a file; None for a setting."""
    group, _, name = key.partition(".")
    dataset = settings.dataset
    if group == "weights":
        given = _weights_key(name)
        node: Any = settings.plain()
        for part in given.split("."):
            node = (node or {}).get(part)
        return f"other weights: the content of {given}={node}"
    if group == "inpainted":
        return f"other files: dataset.images={dataset.images} or dataset.mask={dataset.mask}"
    return f"other code: the source of {name}" if group == "sources" else None


def _weights_key(name: str) -> str:
    """The config key of one of the weights in an identity."""
    if name == "model":
        return "model.weights"
    return "model.autoencoder.statistics" if name == "statistics" else f"model.{name}.weights"


def _check_images(output_dir: Path, settings: Settings, identity: Identity) -> None:
    """Raise ConfigError if the folder has images of another identity, or more than this run makes."""
    formats, wanted = formats_in(output_dir), settings.image_format
    if not formats:
        return
    advice = "choose another folder or remove this one"
    if formats != [wanted]:
        raise ConfigError(
            f"output_dir={output_dir} has images as {' and '.join(formats)}, but {settings.command}.format="
            f"{wanted}; choose another folder, or {settings.command}.format={formats[0]}."
        )
    there = images_identity(output_dir)
    if there is None:
        raise ConfigError(
            f"output_dir={output_dir} has images but no {CONFIG_FILE} that describes them; {advice}."
        )
    for key, theirs, ours in differences(there, identity.images):
        changed = _changed_content(key, settings)
        if changed is not None:
            raise ConfigError(f"output_dir={output_dir} has images of {changed} has changed; {advice}.")
        raise ConfigError(
            f"output_dir={output_dir} has images of another config ({config_key(key)} is {theirs} there and "
            f"{ours} here); {advice}."
        )
    indices = images_of(settings, output_dir).indices()
    if indices and max(indices) >= settings.dataset.num_images:
        raise ConfigError(
            f"output_dir={output_dir} has images up to index {max(indices)}, more than "
            f"dataset.num_images={settings.dataset.num_images} makes; {advice}."
        )
