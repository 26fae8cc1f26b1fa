"""The inputs of a Hugging Face model by its configuration, and the rows that it is compared on: texts and images."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.sources.declared import Declared, complete
from onnxserve_converters.sources.huggingface_folder import Folder

_SIZES = (96, 64, 128)  # of images that may have any
_TOKENS = (17, 9, 14)  # of texts; the first is exported with


_Floats = npt.NDArray[np.float64]


class Part(Protocol):
    """Inputs of one kind, such as texts.

    Attributes:
        declared: the inputs, the main one first.
        lengths: sizes at which the free axes of the main one are tried; empty: any.
        notes: as in drawing.Drawer.
    """

    declared: list[Declared]
    lengths: tuple[int, ...]
    notes: dict[str, str]

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
        """Return an array for each input, where the main one has this shape."""
        ...


class RowDrawer:
    """Draws the inputs of a model; implements drawing.Drawer.

    Args:
        parts: of the model.
        inputs: complete descriptions.
    """

    def __init__(self, parts: Sequence[Part], inputs: Sequence[InputSpec]) -> None:
        self.notes: Mapping[str, str] = {name: note for part in parts for name, note in part.notes.items()}
        self._parts, self._shapes = parts, {spec.name: spec.shape for spec in inputs}

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
        """Return an array for each input."""
        drawn: dict[str, Array] = {}
        for part in self._parts:
            axes = self._shapes[part.declared[0].name]
            drawn |= part.draw(tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes), rng)
        return drawn


def complete_inputs(folder: Folder, parts: Sequence[Part], described: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the inputs; an axis that the caller names or fixes is so in all of them.

    Raises:
        BadRequest: the caller contradicts the configuration, or does not describe what it leaves open.
    """
    declared = [own for part in parts for own in part.declared]
    given = {spec.name: spec.shape for spec in described}
    axes = {
        axis: now
        for own in declared
        if own.shape is not None and len(given.get(own.name, ())) == len(own.shape)
        for axis, now in zip(own.shape, given[own.name], strict=True)
        if isinstance(axis, str)
    }
    renamed = [
        replace(
            own,
            shape=own.shape and tuple(axes.get(axis, axis) if isinstance(axis, str) else axis for axis in own.shape),
        )
        for own in declared
    ]
    lengths = {part.declared[0].name: part.lengths for part in parts}
    specs = complete(folder.path, renamed, described)
    return tuple(replace(spec, lengths=lengths.get(spec.name, ())) for spec in specs)


class Texts:
    """Token ids with their mask and types.

    Args:
        folder: says on which side texts are padded.
        config: of the model, or of all its parts.
        takes: the names of the model's inputs.
    """

    def __init__(self, folder: Folder, config: Any, takes: Collection[str]) -> None:
        text = config.get_text_config()
        self._vocabulary = int(text.vocab_size)
        self._pad, self._end = _token(text, "pad_token_id"), _token(text, "eos_token_id")
        self._left = folder.tokenizer.get("padding_side") == "left"
        names = ["input_ids"]
        names += ["attention_mask"] if "attention_mask" in takes else []
        names += ["token_type_ids"] if "token_type_ids" in takes and getattr(text, "type_vocab_size", 0) > 1 else []
        self.declared = [Declared(name, "int64", ("batch", "time")) for name in names]
        self.lengths = _within(getattr(text, "max_position_embeddings", None))
        self.notes = {name: note for name, note in self._all_notes().items() if name in names}

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
        """Return texts of one token or more, with the mask that says where they are."""
        rows, time = shape
        positions = np.arange(time)
        masked = "attention_mask" in self.notes
        lengths = rng.integers(1, time, rows, endpoint=True)[:, None] if masked else np.full((rows, 1), time)
        ids = rng.choice(self._words(), shape)
        if self._end is not None:
            ids[positions == lengths - 1] = self._end
        mask = positions < lengths
        if self._pad is not None:
            ids[~mask] = self._pad
        types = (positions >= rng.integers(1, lengths, endpoint=True)) & mask
        drawn = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        order = (positions + lengths) % time if self._left else np.broadcast_to(positions, shape)
        return {name: np.take_along_axis(drawn[name], order, 1).astype(np.int64) for name in self.notes}

    def _words(self) -> Array:
        """Return the ids that are neither padding nor an end, which have a meaning for some models."""
        words = np.setdiff1d(np.arange(self._vocabulary), [i for i in (self._pad, self._end) if i is not None])
        return words if words.size else np.arange(self._vocabulary)

    def _all_notes(self) -> dict[str, str]:
        ids = f"token ids below {self._vocabulary}, the size of the vocabulary"
        ids += "" if self._end is None else f", with {self._end} at the end of a text"
        ids += "" if self._pad is None else f", and {self._pad} as padding"
        side = "left" if self._left else "right"
        return {
            "input_ids": ids,
            "attention_mask": f"a one for each of one token or more, and zeros for padding on the {side}",
            "token_type_ids": "zeros, then ones for a second text of any length, as far as the mask reaches",
        }


class Images:
    """Images as the preprocessor normalizes them.

    Args:
        folder: has the configuration of the preprocessor.
        config: of the model, or of all its parts.
        beside_texts: whether texts come with the images, which have a batch of their own.
    """

    def __init__(self, folder: Folder, config: Any, beside_texts: bool) -> None:
        vision = getattr(config, "vision_config", config)
        channels, frames = getattr(vision, "num_channels", 3), getattr(vision, "num_frames", None)
        height, width = _image_size(folder.processor, getattr(vision, "image_size", None))
        rows = "images" if beside_texts else "batch"
        shape = (rows, *([frames] if frames else []), channels, height, width)
        self.declared = [Declared("pixel_values", "float32", shape)]
        self.lengths: tuple[int, ...] = _SIZES if height is None else ()
        self._scale, self._mean, self._std = _normalization(folder.processor, channels)
        known = (
            "that of preprocessor_config.json" if folder.processor else "0.5 in each channel, as nothing else is known"
        )
        self.notes = {"pixel_values": f"pixels from 0 to 255, scaled and normalized; the normalization is {known}"}

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
        """Return images of random pixels."""
        pixels = rng.integers(0, 255, shape, endpoint=True) * self._scale
        values = (pixels - self._mean[:, None, None]) / self._std[:, None, None]
        return {"pixel_values": values.astype(np.float32)}


def _token(config: Any, name: str) -> int | None:
    """Return the id of a special token, the first of several; None where there is none in the vocabulary."""
    token = getattr(config, name, None)
    first = token[0] if isinstance(token, list) and token else token
    return first if isinstance(first, int) and 0 <= first < config.vocab_size else None


def _within(positions: int | None) -> tuple[int, ...]:
    """Return lengths of texts for a model of so many positions, of which some keep two for padding."""
    limit = positions - 2 if positions else max(_TOKENS)
    if limit >= max(_TOKENS):
        return _TOKENS
    return tuple(dict.fromkeys(max(1, size) for size in (limit, limit // 2, limit - 1)))


def _image_size(processor: Mapping[str, Any], own: Any) -> tuple[int | None, int | None]:
    """Return height and width: those to which the preprocessor cuts or scales, else the model's; None where free."""
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    for size in (crop, processor.get("size"), own):
        if isinstance(size, dict) and {"height", "width"} <= size.keys():
            return size["height"], size["width"]
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
        if isinstance(size, int):
            return size, size
    return None, None


def _normalization(processor: Mapping[str, Any], channels: int) -> tuple[float, _Floats, _Floats]:
    """Return the factor of pixels, and means and standard deviations by channel."""
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    normalizes = processor.get("do_normalize", True)
    mean, std = (
        processor.get(name, 0.5) if normalizes else none for name, none in (("image_mean", 0), ("image_std", 1))
    )
    return scale, np.broadcast_to(mean, channels), np.broadcast_to(std, channels)
