"""The variants that a benchmark compares: composed, checked and built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import Row, merge_overrides
from mar_accel.config.settings import BenchmarkSettings, Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_sampler, mar_architecture
from mar_accel.inference.session import Session
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.weights.loading import load_mar

# Keys that belong to the benchmark as a whole, not to a variant.
_OWN_KEYS = ("benchmark.", "output_dir", "hydra.")
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


def select_rows(benchmark: BenchmarkSettings) -> list[Row]:
    """The rows of ``benchmark.variants``, limited to ``benchmark.only`` if that is set.

    Raises:
        ConfigError: no variant is left, or ``benchmark.only`` names an unknown variant.
    """
    described = benchmark.variants
    names = list(described) if benchmark.only is None else benchmark.only
    for name in names:
        if name not in described:
            raise ConfigError(
                f"benchmark.only: {name} is not a variant; choose one of {', '.join(described)}, "
                f"""or define it with +benchmark.variants.{name}='["sampler=…"]'."""
            )
    if not names:
        raise ConfigError("benchmark.only is empty; name at least one variant, or set it to null for all.")
    return [Row(name, tuple(described[name])) for name in names]


def compose_variants(rows: Sequence[Row], overrides: Sequence[str]) -> list[Settings]:
    """The settings of each row.

    Args:
        rows: the variants; their own overrides take precedence.
        overrides: overrides that apply to all rows.

    Raises:
        ConfigError: a row overrides a key that must be the same for all variants.
    """
    shared = [override for override in overrides if not override.lstrip("+~").startswith(_OWN_KEYS)]
    settings = []
    for row in rows:
        for override in row.overrides:
            if override.lstrip("+~").split("=")[0].split(".")[0].split("/")[0] not in _VARIED:
                raise ConfigError(
                    f"benchmark.variants.{row.name} overrides {override}, which must be the same for all "
                    "variants; set it on the command line instead."
                )
        settings.append(compose_settings("benchmark", merge_overrides(shared, row.overrides)))
    return settings


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
            session = like.session.with_settings(settings)
        elif autoencoder:
            session = Session.from_settings(settings)
        else:
            model = settings.model
            network = load_mar(mar_architecture(model), model.weights, model.name, model.ema)
            session = Session.of(
                network,
                NoAutoencoder(),
                build_sampler(settings),
                build_cache(settings),
                settings.seed,
                model.sampling,
            )
        variants.append(Variant(row.name, settings, session))
    return variants
