"""Converts arrays and tensors, and names the outputs of a PyTorch model."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from onnxserve.tensor import NUMBERS, Array
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

_WITHOUT_ARRAYS = {name for name in NUMBERS if name == "string" or name.startswith(("bfloat", "float8"))}


def check_dtype(spec: InputSpec) -> None:
    """Check that an input's dtype exists in both numpy and PyTorch.

    Raises:
        BadRequest: it does not.
    """
    if spec.dtype in _WITHOUT_ARRAYS:
        raise BadRequest(
            f"--input {spec.name}: a PyTorch model cannot be compared in {spec.dtype}; change it and its inputs to "
            "float32 or float16"
        )


def to_tensor(array: Array) -> torch.Tensor:
    """Return a tensor of an array's dtype and shape that does not share its memory."""
    return torch.tensor(array)


def to_array(name: str, value: Any) -> Array:
    """Return the array of an output.

    Raises:
        BadRequest: it is not a tensor, or its dtype does not exist in numpy or ONNX.
    """
    if not isinstance(value, torch.Tensor):
        raise BadRequest(
            f"output {name}: expected a tensor, got {type(value).__name__}; wrap the model in a module that returns "
            "tensors only"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in NUMBERS or dtype in _WITHOUT_ARRAYS:
        raise BadRequest(f"output {name}: {dtype} cannot be compared; convert it to float32 in the model")
    array: Array = value.detach().cpu().numpy().copy()  # the model may use its memory again
    return array


@contextlib.contextmanager
def recorded(module: nn.Module) -> Iterator[dict[str, Array]]:
    """Record the first tensor that each part of a module returns, by path, in the order in which the parts end."""
    values: dict[str, Array] = {}

    def hook(path: str, result: Any) -> None:
        first = result[0] if isinstance(result, tuple) and result else result
        if isinstance(first, torch.Tensor) and path not in values:
            values[path] = to_array(path, first)

    handles = [
        part.register_forward_hook(lambda _, __, result, path=path: hook(path, result))
        for path, part in module.named_modules()
        if path
    ]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def named_tensors(result: Any) -> dict[str, Any]:
    """Return the tensors in a model's result, without None, in the order in which exporters write them.

    A tensor is named by the keys and fields that lead to it; positions alone give "output_0", "output_1_0" and so on,
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
        raise BadRequest("the model returns no tensor; convert a model that returns at least one")
    return named


def _leaves(value: Any, path: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    if dataclasses.is_dataclass(value) and type(value) not in pytree.SUPPORTED_NODES:
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    parts, structure = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
    if structure.is_leaf():
        yield path, value
        return
    for key, part in zip(_keys(value, len(parts)), parts, strict=True):
        yield from _leaves(part, (*path, key))


def _keys(value: Any, count: int) -> list[int | str]:
    keys: list[int | str] = list(range(count))
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
    elif hasattr(value, "_fields"):
        keys = list(value._fields)
    elif dataclasses.is_dataclass(value):
        keys = [field.name for field in dataclasses.fields(value) if getattr(value, field.name) is not None]
    return keys if len(keys) == count else list(range(count))
