"""The inputs of a Hugging Face model of sound by its configuration, and the rows that it is compared on."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.sources.declared import Declared
from onnxserve_converters.sources.huggingface_folder import Folder

_FRAMES = (13, 6, 9)  # that the convolutions make of samples; the first is exported with
_WHISPER_STRIDE = 2  # of its convolutions together


class Sound:
    """Samples of sound, or their spectrogram, with their mask.

    Args:
        folder: has the configuration of the preprocessor, which says whether there is a mask.
        config: of the model.
        takes: the names of the model's inputs.
    """

    def __init__(self, folder: Folder, config: Any, takes: Collection[str]) -> None:
        kernels, strides = getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ())
        self._receptive = _receptive_field(kernels, strides)
        shape: tuple[int | str, ...] | None = ("batch", "samples")
        self.lengths: tuple[int, ...] = ()
        if kernels:
            self.lengths = tuple(self._receptive + frames * math.prod(strides) + frames for frames in _FRAMES)
        else:  # of a spectrogram
            bins, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_length", None)
            shape = ("batch", frames, bins) if bins and frames else None
        self.declared = [Declared("input_values", "float32", shape)]
        self.notes = {"input_values": "noise of mean 0 and variance 1, as preprocessors normalize sound"}
        if "attention_mask" in takes and kernels and _is_masked(folder, config):
            self.declared.append(Declared("attention_mask", "int64", shape))
            self.notes["input_values"] += ", then zeros as padding"
            self.notes["attention_mask"] = f"ones for {self._receptive} samples or more, then zeros for padding"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
        """Return noise, and where there is a mask, of unequal lengths."""
        values = rng.normal(size=shape).astype(np.float32)
        if "attention_mask" not in self.notes:
            return {"input_values": values}
        lengths = rng.integers(min(self._receptive, shape[1]), shape[1], shape[0], endpoint=True)
        mask = np.arange(shape[1]) < lengths[:, None]
        return {"input_values": values * mask, "attention_mask": mask.astype(np.int64)}


class Spectrograms:
    """Log-mel features; implements huggingface_inputs.Part.

    Args:
        config: of the model.
        takes: the names of the model's inputs.
    """

    def __init__(self, config: Any, takes: Collection[str]) -> None:
        self.lengths: tuple[int, ...] = ()
        shape: tuple[int | str, ...] | None = None
        if config.model_type == "whisper":  # always 30 seconds, filled up with silence; its mask is not used
            shape = ("batch", config.num_mel_bins, _WHISPER_STRIDE * config.max_source_positions)
        elif bins := getattr(config, "input_feat_per_channel", getattr(config, "feature_projection_input_dim", None)):
            shape, self.lengths = ("batch", "frames", bins), (52, 24, 36)
        self._masked = "attention_mask" in takes and config.model_type != "whisper"
        self.declared = [Declared("input_features", "float32", shape)]
        self.notes = {"input_features": "values from -1 to 1, between which preprocessors scale the logarithms"}
        if self._masked:
            self.declared.append(Declared("attention_mask", "int64", shape and shape[:2]))
            self.notes["attention_mask"] = "ones for half of the frames or more, then zeros for padding"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
        """Return random features, and where there is a mask, of unequal lengths."""
        values = rng.uniform(-1, 1, shape).astype(np.float32)
        if not self._masked:
            return {"input_features": values}
        lengths = rng.integers((shape[1] + 1) // 2, shape[1], shape[0], endpoint=True)
        mask = np.arange(shape[1]) < lengths[:, None]
        return {"input_features": values * mask[:, :, None], "attention_mask": mask.astype(np.int64)}


def _is_masked(folder: Folder, config: Any) -> bool:
    """Whether sound comes with a mask: models with group normalization were trained without one."""
    own = getattr(config, "feat_extract_norm", "layer") == "layer"
    return bool(folder.processor.get("return_attention_mask", own))


def _receptive_field(kernels: Collection[int], strides: Collection[int]) -> int:
    """Return the number of samples that one frame is made of."""
    samples = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples
