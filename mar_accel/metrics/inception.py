"""InceptionV3 features for FID as published: torch-fidelity's port of the TensorFlow network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.metrics.feature_weights import require_finite
from mar_accel.metrics.features import FeatureExtractor, Features, check_images
from mar_accel.utils.fingerprints import file_fingerprint, require_regular_file

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_PAGE = "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"


class InceptionFeatures(FeatureExtractor):
    """Pooled features [B, 2048] and unbiased logits [B, 1008]; the network resizes images of any size.

    Args:
        weights: path of torch-fidelity's weight file.
            None: the file in torch's hub folder, downloaded if missing.

    Raises:
        ConfigError: torch-fidelity or the weights are not available.
    """

    name = "inception"
    dim = 2048

    def __init__(self, weights: Annotated[str, MinLen(1)] | None = None):
        super().__init__()
        hub_file = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
        path = hub_file if weights is None else Path(weights).expanduser()
        if weights is not None:
            _check_weights(path, hub_file)
        network_class = _network_class()
        try:
            network = network_class(
                "inception-v3", ["2048", "logits_unbiased"], None if weights is None else str(path)
            )
        except Exception as error:
            raise ConfigError(_remedy(path, hub_file, error)) from error
        require_finite(network, path)
        self.network = network
        self.fingerprint = file_fingerprint(path)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> InceptionFeatures:
        """Stay in evaluation mode whatever ``mode`` is."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        check_images(images)
        pooled, logits = self.network(images.expand(-1, 3, -1, -1))
        return Features(pooled.float(), logits.float())


class SpatialInceptionFeatures(InceptionFeatures):
    """Spatial Inception features, whose Fréchet distance is sFID (arXiv:2103.03841, as in ADM's evaluator).

    They are the first 7 channels of the first branch of block "mixed_6", 17×17 places each: 2,023 numbers.

    Args:
        weights: as in :class:`InceptionFeatures`.
    """

    name = "inception_spatial"
    dim = 2023
    channels = 7

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        check_images(images)
        kept: list[Tensor] = []
        network: Any = self.network
        branch = network.Mixed_6d.branch1x1
        hook = branch.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            _, logits = self.network(images.expand(-1, 3, -1, -1))
        finally:
            hook.remove()
        spatial = kept[0][:, : self.channels]
        return Features(spatial.flatten(1).float(), logits.float())


def _network_class() -> type[torch.nn.Module]:
    try:
        # torch-fidelity imports all of torchvision, so both must be installed and match torch.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except Exception as error:
        raise ConfigError(
            "features=inception needs torch-fidelity and a torchvision that matches the installed torch "
            f"({type(error).__name__}: {error}); run pip install -e '.[inception]' in the checkout."
        ) from error
    return FeatureExtractorInceptionV3


def _check_weights(path: Path, hub_file: Path) -> None:
    """Raise ConfigError unless the file loads with torch's restricted unpickler.

    torch-fidelity itself unpickles without restrictions, which could run code from the file.
    """
    try:
        require_regular_file(path)
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(_remedy(path, hub_file, error)) from error


def _remedy(path: Path, hub_file: Path, error: Exception) -> str:
    return (
        f"features.weights={path} cannot be read as InceptionV3 weights ({type(error).__name__}); download "
        f"{WEIGHTS_NAME} from {WEIGHTS_PAGE} to {hub_file}, or set features.weights to its path."
    )
