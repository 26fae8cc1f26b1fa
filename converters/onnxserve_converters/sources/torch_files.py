"""Reads PyTorch's files; code in them runs only if it is trusted."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.export import ExportedProgram

from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.request import Request
from onnxserve_converters.sources import base
from onnxserve_converters.sources.named import is_named, make_named

_Content = TypeVar("_Content")

_NESTED = ("state_dict", "model_state_dict")
_REFUSED_CLASS = re.compile(r"GLOBAL (\S+)")


def read_script(path: Path) -> torch.jit.ScriptModule:
    """Return a TorchScript module.

    Raises:
        BadRequest: the file cannot be read.
    """
    load: Callable[..., torch.jit.ScriptModule] = torch.jit.load  # it is not typed itself
    return _read(path, "TorchScript", lambda: load(path, map_location="cpu")).eval()


def read_program(path: Path) -> ExportedProgram:
    """Return a program that torch.export saved.

    Raises:
        BadRequest: the file cannot be read.
    """
    return _read(path, "an exported program", lambda: torch.export.load(path))


def read_in_memory(path: Path) -> nn.Module:
    """Return the module that the calling process pickled.

    Raises:
        BadRequest: its code cannot be imported.
    """
    base.search_here()
    try:
        with path.open("rb") as file:
            module: nn.Module = pickle.load(file)  # noqa: S301 - from our own parent
    except Exception as error:  # unpickling imports and runs the caller's own code
        raise BadRequest(
            f"the module cannot be loaded in the worker process: {one_line(error)}; make its class importable, or "
            "convert its state_dict() with class_path"
        ) from error
    return module.cpu().eval()


def read_module(request: Request) -> tuple[nn.Module, list[str]]:
    """Return the module of a file of weights, or of a whole pickled module, and notes on it.

    Raises:
        BadRequest: the file cannot be read, contains code that is not trusted, or has other weights than the class.
    """
    path, notes = request.source, []
    held = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path, request.trust_code)
    if isinstance(held, nn.Module):
        return held.cpu().eval(), ["the file contains a whole module, whose code was trusted"]
    if not isinstance(held, Mapping):
        raise BadRequest(f"{path}: expected weights, got a {type(held).__name__}; save the model's state_dict()")
    for key in _NESTED:
        if isinstance(held.get(key), Mapping):
            held = held[key]
            notes.append(f"the weights were taken from the file's entry {key!r}")
            break
    if request.class_path is None:
        raise BadRequest(
            f"{path}: a state_dict contains weights only; name their class with --class package.module:Class"
        )
    if is_named(request.class_path):
        module = make_named(request.class_path, request.class_arguments, held)
    else:
        module = base.make(request.class_path, request.class_arguments)
    if not isinstance(module, nn.Module):
        raise BadRequest(f"--class {request.class_path}: expected a torch.nn.Module, got a {type(module).__name__}")
    try:
        module.load_state_dict(held, strict=True)
    except Exception as error:  # torch lists every key; a class's own code may raise anything
        fault = _first_fault(module.state_dict(), held) or one_line(error)
        raise BadRequest(f"{path}: the weights do not fit {request.class_path}: {fault}") from error
    return module.eval(), notes


def _read(path: Path, what: str, read: Callable[[], _Content]) -> _Content:
    try:
        return read()
    except Exception as error:  # torch and its zip reader raise a dozen classes
        raise BadRequest(f"{path}: cannot be read as {what}: {one_line(error)}") from error


def _read_safetensors(path: Path) -> Any:
    base.need("torch", "safetensors")
    from safetensors.torch import load_file

    return _read(path, "safetensors", lambda: load_file(path))


def _read_pickled(path: Path, trust_code: bool) -> Any:
    base.search_here()
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust_code)
    except Exception as error:  # UnpicklingError, and a dozen classes for files of other formats
        if refused := _REFUSED_CLASS.search(str(error)):
            raise BadRequest(f"{path}: not weights alone: contains an object of {refused[1]}; {base.TRUST}") from error
        if trust_code and isinstance(error, AttributeError | ImportError):
            raise BadRequest(
                f"{path}: the code that it needs cannot be imported: {one_line(error)}; convert it where that code is "
                "installed, or save the model's state_dict() and name its class with --class package.module:Class"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # its text advises loading the file unsafely
            raise BadRequest(
                f"{path}: cannot be read as weights of PyTorch: the file is damaged or contains code; {base.TRUST}"
            ) from error
        raise BadRequest(f"{path}: cannot be read as a file of PyTorch: {one_line(error)}") from error


def _first_fault(own: Mapping[str, Any], held: Mapping[str, Any]) -> str | None:
    """Return the first difference between the keys and shapes of a class and a file; None where they agree."""
    for key, tensor in own.items():
        if key not in held:
            return f"the file lacks {key!r}"
        if isinstance(tensor, torch.Tensor) and tensor.shape != getattr(held[key], "shape", None):
            theirs = list(getattr(held[key], "shape", ()))
            return f"{key!r} has shape {theirs} in the file, but {list(tensor.shape)} in the class"
    return next((f"the class lacks {key!r}" for key in held if key not in own), None)
