"""Judges beyond Inception: DINOv2 (FD-DINOv2) and CLIP (CMMD), through transformers.

Sources: Stein et al., Exposing flaws of generative model evaluation metrics (arXiv:2306.04675);
Jayasumana et al., Rethinking FID (arXiv:2401.09603).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.metrics.feature_weights import require_finite
from mar_accel.metrics.features import FeatureExtractor, Features, check_images
from mar_accel.utils.packages import import_transformers

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Height and width in pixels: at least one patch, and few enough that attention between all patches fits.
Size = Annotated[int, Ge(14), Le(1024)]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class TransformersFeatures(FeatureExtractor):
    """Base of judges that transformers loads. They have no logits, so there is no Inception Score.

    Subclasses set the attributes and implement ``embed``.

    Args:
        weights: Hub repository id or folder of a model in transformers' format. Only .safetensors is read.
        size: height and width in pixels that images are resized to. None: as the network was trained.

    Raises:
        ConfigError: transformers or the weights are not available, or of another kind of model.

    Attributes:
        model_class: class of transformers that loads the weights.
        mean, std: normalisation of pixels in 0..1.
    """

    model_class: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self, weights: Annotated[str, MinLen(1)], size: int | None = None):
        super().__init__()
        self.network = _load(self.model_class, weights, self.name)
        self.size: int = size or self.network.config.image_size
        self.dim = self.feature_dim()
        # The size and the normalisation change the features as the weights do.
        self.fingerprint = f"{_fingerprint(self.network)}-{self.size}-{self.mean}-{self.std}"
        self.requires_grad_(False).eval()

    def feature_dim(self) -> int:
        """Number of features F."""
        raise NotImplementedError

    def embed(self, pixels: Tensor) -> Tensor:
        """Features [B, F] of normalised pixels [B, 3, S, S]."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> TransformersFeatures:
        """Stay in evaluation mode whatever ``mode`` is."""
        return super().train(False)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize images uint8 [B, C, H, W] (bicubic, antialiased) to the network's size; normalise them."""
        pixels = images.float().expand(-1, 3, -1, -1)
        if pixels.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        # Pictures have 8 bits, also after they are resized.
        pixels = pixels.round().clamp(0, 255) / 255
        mean, std = (pixels.new_tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        check_images(images)
        pooled = self.embed(self.prepare(images)).float()
        return Features(pooled, pooled.new_empty(len(pooled), 0))


class DINOv2Features(TransformersFeatures):
    """Class token of DINOv2 after its last norm. The Fréchet distance on it is FD-DINOv2 (arXiv:2306.04675).

    Example:
        >>> DINOv2Features("facebook/dinov2-large").dim
        1024
    """

    name = "dinov2"
    model_class = "Dinov2Model"
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, weights: Annotated[str, MinLen(1)] = "facebook/dinov2-large", size: Size = 224):
        # The published network was trained at 518 pixels. The published metric resizes to 224.
        super().__init__(weights, size)

    def feature_dim(self) -> int:
        return self.network.config.hidden_size

    def embed(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).pooler_output


class CLIPFeatures(TransformersFeatures):
    """Projected image embeddings of CLIP with unit length, for CMMD (arXiv:2401.09603).

    Example:
        >>> CLIPFeatures("openai/clip-vit-large-patch14-336").dim
        768
    """

    name = "clip"
    model_class = "CLIPVisionModelWithProjection"
    mean, std = CLIP_MEAN, CLIP_STD
    for_cmmd = True

    def __init__(self, weights: Annotated[str, MinLen(1)] = "openai/clip-vit-large-patch14-336"):
        super().__init__(weights)

    def feature_dim(self) -> int:
        return self.network.config.projection_dim

    def embed(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.network(pixel_values=pixels).image_embeds, dim=-1)


def _load(model_class: str, weights: str, name: str) -> Any:
    transformers = import_transformers(f"features={name}")
    try:
        loaded, report = getattr(transformers, model_class).from_pretrained(
            weights, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the library does not wrap the errors of its HTTP client
        raise ConfigError(
            f"features.weights={weights} cannot be loaded as {model_class} ({type(error).__name__}); use a "
            "folder or Hub repository of this model in transformers' format, and check the connection."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"features.weights={weights} is no {model_class}: it lacks {len(missing)} tensors such as "
            f"{missing[0]}; use the weights of this model."
        )
    require_finite(loaded, weights)
    return loaded


def _fingerprint(network: torch.nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
