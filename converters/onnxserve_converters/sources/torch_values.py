"""Arrays and tensors, and the names of what a PyTorch model returns."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from onnxserve.tensor import NUMBERS, Array
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

_WITHOUT_ARRAYS = {name for name in NUMBERS if name == "string" or name.startswith(("bfloat", "float8"))}


def check_dtype(spec: InputSpec) -> None:
    """Check that an input is of a dtype that both numpy and PyTorch have.

    Raises:
        BadRequest: it is not.
    """
    if spec.dtype in _WITHOUT_ARRAYS:
        raise BadRequest(
            f"--input {spec.name}: a PyTorch model cannot be compared on {spec.dtype}; convert the model, with its "
            "inputs, to float32 or float16"
        )


def to_tensor(array: Array) -> torch.Tensor:
    """Return a tensor of an array's dtype and shape that does not share its memory."""
    return torch.tensor(array)


def to_array(name: str, value: Any) -> Array:
    """Return the array of an output.

    Raises:
        BadRequest: it is no tensor, or of a dtype that numpy or ONNX has not.
    """
    if not isinstance(value, torch.Tensor):
        raise BadRequest(
            f"output {name}: the model returns {type(value).__name__} there, and an ONNX file returns tensors alone; "
            "wrap it in a module that returns tensors"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in NUMBERS or dtype in _WITHOUT_ARRAYS:
        raise BadRequest(f"output {name}: it is {dtype}, which cannot be compared; make it float32 in the model")
    array: Array = value.detach().cpu().numpy().copy()  # the model may use its memory again
    return array


def named_tensors(result: Any) -> dict[str, Any]:
    """Return the leaves of what a model returns, in the order in which exporters write them, without None.

    A leaf is named by the keys and fields on the way to it; positions alone give "output_0", "output_1_0" and so on,
    and a lone tensor is "output".
    """
    named: dict[str, Any] = {}
    for path, leaf in _leaves(result, ()):
        if leaf is None:
            continue
        words = [str(key) for key in path]
        if not words or isinstance(path[0], int):
            words.insert(0, "output")
        name = "_".join(words)
        named[name if name not in named else f"{name}_{len(named)}"] = leaf
    if not named:
        raise BadRequest("the model returns no tensor")
    return named


def _leaves(value: Any, path: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    if dataclasses.is_dataclass(value) and type(value) not in pytree.SUPPORTED_NODES:
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    children, structure = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
    if structure.is_leaf():
        yield path, value
        return
    for key, child in zip(_keys(value, len(children)), children, strict=True):
        yield from _leaves(child, (*path, key))


def _keys(value: Any, count: int) -> list[int | str]:
    keys: list[int | str] = list(range(count))
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
    elif hasattr(value, "_fields"):
        keys = list(value._fields)
    elif dataclasses.is_dataclass(value):
        keys = [field.name for field in dataclasses.fields(value) if getattr(value, field.name) is not None]
    return keys if len(keys) == count else list(range(count))
