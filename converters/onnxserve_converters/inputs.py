"""A model's inputs, and the texts that describe them, their sizes and ranges."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxserve.tensor import NUMBERS
from onnxserve_converters.errors import BadRequest

_INPUT = re.compile(r"\s*(?P<name>[^=]*[^=\s])\s*=\s*(?P<dtype>\w+)\s*\[(?P<shape>[^\]]*)\]\s*")
_AXIS = re.compile(r"[A-Za-z_]\w*")
_TRUTH = {"false": 0.0, "true": 1.0}

Range = tuple[float, float] | list[str]
"""The smallest and the largest random value of an input of numbers, or the values of one of strings."""

Ranges = Mapping[str, Range]
"""By input."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input: its dtype by numpy's name (or "string"), and its shape, where a free axis has a name for a size.

    Axes of one name have one size. Random texts for a model that reads texts are made of `words`. `columns` names the
    features of an input [batch,features], where the model knows their names. A model that does not accept every size
    is run at `lengths`, two or more sizes of its free axes but the batch, unless the caller gives others.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    words: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}={self.dtype}[{','.join(map(str, self.shape))}]"


def parse_input(text: str) -> InputSpec:
    """Read a description such as "image=float32[batch,3,32,32]"; a scalar is "rate=int64[]".

    Raises:
        BadRequest: it has another form, or an unknown dtype.
    """
    match = _INPUT.fullmatch(text)
    if match is None:
        raise BadRequest(f"input {text!r}: expected name=dtype[axis,axis,...], such as image=float32[batch,3,32,32]")
    dtype = match["dtype"]
    if dtype not in NUMBERS:
        raise BadRequest(f"input {match['name']}: unknown dtype {dtype!r}; expected one of {', '.join(NUMBERS)}")
    axes = match["shape"].split(",") if match["shape"].strip() else []
    return InputSpec(match["name"], dtype, tuple(_axis(match["name"], axis.strip()) for axis in axes))


def free_axes(inputs: Sequence[InputSpec]) -> list[str]:
    """Return the names of the free axes, in the order of their first appearance."""
    return list(dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str)))


def batch_axis(inputs: Sequence[InputSpec]) -> str | None:
    """Return the name of the batch axis, which is the first axis of the first input; None where that is fixed."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, str) else None


def parse_sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read sizes to try, such as "time=16,48", by axis.

    Raises:
        BadRequest: a text has another form.
    """
    sizes = {}
    for text in texts:
        axis, _, numbers = text.replace(" ", "").rpartition("=")
        if not (axis and re.fullmatch(r"[0-9]+(,[0-9]+)*", numbers)):
            raise BadRequest(f"size {text!r}: expected axis=size,size,..., such as time=16,48")
        sizes[axis] = tuple(map(int, numbers.split(",")))
    return sizes


def parse_ranges(texts: Sequence[str]) -> dict[str, Range]:
    """Read ranges of random values, by input.

    They are such as "ids=0:999" (both ends included), "flag=false:true", and for strings "color=red|green|blue".

    Raises:
        BadRequest: a text has another form.
    """
    ranges: dict[str, Range] = {}
    for text in texts:
        name, equals, values = text.partition("=") if "|" in text else text.rpartition("=")
        if equals and "|" in values:
            ranges[name.strip()] = values.split("|")
            continue
        low, _, high = values.partition(":")
        try:
            ranges[name.strip()] = (_number(low), _number(high))
        except ValueError:
            raise BadRequest(
                f"range {text!r}: expected input=low:high, such as ids=0:999 or flag=false:true, or for strings "
                "input=value|value, such as color=red|green"
            ) from None
    return ranges


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """Return the dtype of arrays of an input's dtype; strings are objects."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:  # bfloat16, float8: numpy knows them once ml_dtypes, which comes with onnx, is imported
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def _number(text: str) -> float:
    truth = _TRUTH.get(text.strip().lower())
    return float(text) if truth is None else truth


def _axis(name: str, text: str) -> int | str:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if _AXIS.fullmatch(text) and text != "None":  # two axes of that name would be taken for one
        return text
    raise BadRequest(f"input {name}: invalid axis {text!r}; expected a size of at least 1 or the name of a free axis")
