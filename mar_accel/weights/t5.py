"""Text features of a pretrained T5 encoder, kept on disk by the prompt's hash.

The encoder is loaded only if features are missing, and freed before images are sampled. So it never shares
the accelerator's memory with the image model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from mar_accel.errors import ConfigError, WeightsError
from mar_accel.models.text_encoder import TextEncoder, shown
from mar_accel.utils.fingerprints import size_and_time
from mar_accel.utils.packages import import_transformers
from mar_accel.utils.progress import progress
from mar_accel.utils.whole_files import written_whole
from mar_accel.weights.sources import locate

KEY = "model.text_encoder.weights"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
CHOICES = "a folder with encoder and tokenizer, a Hub repository id, or random"
CONFIG, MODEL, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class T5TextEncoder(TextEncoder):
    """The encoder of a published T5 model, with padding to a fixed length.

    Its attention ignores padding, but features of padding positions are used too (LightGen).

    Args:
        weights: a Hub repository id, a folder with model and tokenizer, or "random".
            google/flan-t5-xxl: 4.8 billion parameters in the encoder, 9.5 GB in bfloat16. Its files hold
            encoder and decoder in float32: a download of about 45 GB.
            "random": random features for each prompt, for timings without T5.
        length: number of tokens N. Longer prompts are cut.
        width: width of the features that the image model takes.
        device: where T5 runs: "auto" (CUDA if there is a device, else the CPU), "cpu", "cuda", "mps".
        dtype: "bfloat16", "float32" or "float16".
        quantization: "8bit" halves the memory on a CUDA device (needs bitsandbytes). None: no quantisation.
        cache_dir: folder of the features. None: ~/.cache/mar_accel/text_features.

    Example:
        >>> encoder = T5TextEncoder("google/flan-t5-xxl", length=128, width=4096)
        >>> encoder.prepare(["a red seven"])
        >>> encoder.features("a red seven").shape
        torch.Size([128, 4096])
    """

    def __init__(
        self,
        weights: str,
        length: int,
        width: int,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
        quantization: Literal["8bit"] | None = None,
        cache_dir: str | None = None,
    ):
        super().__init__()
        self.weights = weights
        self.length, self.width = self.shape = length, width
        self.device, self.dtype, self.quantization = device, dtype, quantization
        self.cache_dir = _user_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self._tokenizer: Any = None

    def check(self, prompts: Sequence[str], key: str) -> list[str]:
        if self.weights == "random":
            return []
        notes, tokenizer = [], self._load_tokenizer()
        for number, prompt in enumerate(prompts):
            ids = tokenizer(prompt).input_ids
            if len(ids) > self.length:
                # The last place is the end token's.
                rest = tokenizer.decode(ids[self.length - 1 :], skip_special_tokens=True)
                notes.append(f"{key}[{number}] has more than {self.length} tokens; cut off: {shown(rest)}.")
        return notes

    def prepare(self, prompts: Sequence[str]) -> None:
        if self.weights == "random":
            return
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        # Of several processes, one encodes. The others find the files.
        with FileLock(self.cache_dir / ".lock"):
            missing = [prompt for prompt in dict.fromkeys(prompts) if not self._file(prompt).is_file()]
            if not missing:
                return
            encoder, tokenizer = self._load_encoder(), self._load_tokenizer()
            for prompt in progress(missing, "text features", len(missing)):
                features = self._encode(encoder, tokenizer, prompt)
                with written_whole(self._file(prompt)) as temporary:
                    save_file({"features": features}, temporary)

    def features(self, prompt: str) -> Tensor:
        if self.weights == "random":
            generator = torch.Generator().manual_seed(int.from_bytes(_hash(prompt)[:7], "big"))
            return torch.randn(self.length, self.width, generator=generator, dtype=torch.float32)
        if not self._file(prompt).is_file():
            self.prepare([prompt])
        return load_file(self._file(prompt))["features"]

    @torch.inference_mode()
    def _encode(self, encoder: Any, tokenizer: Any, prompt: str) -> Tensor:
        """Features [N, width] of a prompt, on the CPU."""
        tokens = tokenizer(
            prompt, max_length=self.length, padding="max_length", truncation=True, return_tensors="pt"
        ).to(encoder.device)
        output = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return output.last_hidden_state[0].cpu().contiguous()

    def _file(self, prompt: str) -> Path:
        """The file of a prompt's features; everything that they depend on is in its name."""
        key = json.dumps([self.weights, *self._files, self.length, self.dtype, self.quantization, prompt])
        return self.cache_dir / f"{_hash(key).hex()[:32]}.safetensors"

    @cached_property
    def _files(self) -> list[list[Any]]:
        """What tells the files of a folder from others in the same folder; empty for a repository."""
        return size_and_time(self.weights) or []

    def _folder(self, files: Sequence[str]) -> Path:
        folder = locate(self.weights, KEY, files, CHOICES)
        if folder is None or not folder.is_dir():
            raise WeightsError(f"{KEY}={self.weights} must be a folder or a Hub repository id, not a file.")
        return folder

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            transformers = import_transformers("a text encoder")
            folder = self._folder((CONFIG, *TOKENIZER_FILES))
            try:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            except Exception as error:  # transformers raises anything on missing or damaged files
                raise _unusable(folder, "tokenizer", error) from error
        return self._tokenizer

    def _load_encoder(self) -> Any:
        """The encoder on its device."""
        transformers = import_transformers("a text encoder")
        folder = self._folder((CONFIG, MODEL, INDEX))
        if (folder / INDEX).is_file() and not (folder / MODEL).is_file():
            shards = json.loads((folder / INDEX).read_text())["weight_map"].values()
            folder = self._folder(sorted(set(shards)))
        arguments: dict[str, Any] = {"dtype": DTYPES[self.dtype], "local_files_only": True}
        if self.quantization is not None:
            arguments["quantization_config"] = _eight_bits()
        try:
            encoder: Any = transformers.T5EncoderModel.from_pretrained(folder, **arguments)
        except Exception as error:  # transformers raises anything on missing or damaged files
            raise _unusable(folder, "T5 encoder", error) from error
        if encoder.config.d_model != self.width:
            raise WeightsError(
                f"{KEY}={self.weights} has features of width {encoder.config.d_model}, but the model takes "
                f"{self.width}; use the text encoder that it was trained with."
            )
        return encoder.eval() if self.quantization is not None else encoder.eval().to(self._device())

    def _device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def _eight_bits() -> Any:
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise ConfigError(
            "model.text_encoder.quantization=8bit needs bitsandbytes; run pip install -e '.[text-8bit]' in "
            "the checkout, or set it to null."
        ) from error
    return BitsAndBytesConfig(load_in_8bit=True)


def _unusable(folder: Path, what: str, error: Exception) -> WeightsError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return WeightsError(f"{KEY}={folder} has no usable {what} ({reason}); use a folder or repository of T5.")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _user_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mar_accel" / "text_features"
