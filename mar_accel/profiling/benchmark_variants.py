"""The variants that a benchmark compares: checked and built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mar_accel.config.overrides import group_of
from mar_accel.config.rows import Row, select_rows
from mar_accel.config.settings import BenchmarkSettings, Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.session import Session
from mar_accel.models.autoencoders import Autoencoder

# Only these may differ between variants. Rounds with other batches or devices would not be comparable.
_VARIED = ("model", "sampler", "cache")


class NoAutoencoder(Autoencoder):
    """Returns the latents unchanged, so that only sampling is timed."""

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class Variant:
    """One variant that is ready to run."""

    name: str
    settings: Settings
    session: Session


def rows_of(benchmark: BenchmarkSettings) -> list[Row]:
    """The rows of ``benchmark.variants``, limited to ``benchmark.only`` if that is set.

    Raises:
        ConfigError: no variant is left, ``benchmark.only`` names an unknown variant,
            or a variant overrides a key that must be the same for all variants.
    """
    rows = [Row(name, tuple(overrides)) for name, overrides in benchmark.variants.items()]
    rows = select_rows(rows, benchmark.only, "benchmark.only")
    for row in rows:
        for override in row.overrides:
            if group_of(override) not in _VARIED:
                raise ConfigError(
                    f"benchmark.variants.{row.name} overrides {override}, which must be the same for all "
                    "variants; set it on the command line instead."
                )
    return rows


def build_variants(rows: Sequence[Row], composed: Sequence[Settings], autoencoder: bool) -> list[Variant]:
    """Build the sessions of all variants; variants of the same model share its weights.

    Args:
        rows: the variants.
        composed: settings of each variant.
        autoencoder: whether to load the autoencoder. False: latents stay undecoded.
    """
    variants: list[Variant] = []
    for row, settings in zip(rows, composed, strict=True):
        like = next((other for other in variants if other.settings.model == settings.model), None)
        if like is not None:
            session = like.session.with_settings(settings, like.settings)
        elif settings.dataset.images is not None and not autoencoder:
            raise ConfigError(
                "benchmark.autoencoder must be true with dataset.images, which it encodes; set it to true."
            )
        else:
            session = Session.from_settings(settings, None if autoencoder else NoAutoencoder())
        session.check_batch(settings.trainer.batch_size)
        variants.append(Variant(row.name, settings, session))
    return variants
