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
from onnxserve_converters.sources.checkpoints import fault, fitting_weights
from onnxserve_converters.sources.named import is_named, make_named
from onnxserve_converters.sources.plain_classes import STAND_INS

_Content = TypeVar("_Content")

_GIT_LFS = b"version https://git-lfs.github.com/spec/"
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
    path = request.source
    held = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickled(path, request.trust_code)
    if isinstance(held, nn.Module):
        return held.cpu().eval(), ["the file contains a whole module, whose code was trusted"]
    if not isinstance(held, Mapping):
        raise BadRequest(f"{path}: expected weights, got a {type(held).__name__}; save the model's state_dict()")
    if whole := [key for key, value in held.items() if isinstance(value, nn.Module)]:
        raise BadRequest(
            f"{path}: its entry {whole[0]!r} is a whole module; save that alone, torch.save(checkpoint[{whole[0]!r}], "
            "path), and convert it with --trust-code, or save its state_dict()"
        )
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
    return module, _load_weights(module, held, request)


def _load_weights(module: nn.Module, held: Mapping[Any, Any], request: Request) -> list[str]:
    """Give a module its weights in a checkpoint, and return notes on what was recognized."""
    path = request.source
    try:
        weights, notes = fitting_weights(module, held, str(request.weights) if request.weights else None)
    except BadRequest as error:
        raise BadRequest(f"{path}: {error}") from error
    try:
        module.load_state_dict(weights, strict=True)
    except Exception as error:  # torch lists every key; a class's own code may raise anything
        why = fault(module.state_dict(), weights) or one_line(error)
        raise BadRequest(f"{path}: the weights do not fit {request.class_path}: {why}") from error
    module.eval()
    return notes


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
    _refuse_pointer(path)
    try:
        with torch.serialization.safe_globals([] if trust_code else STAND_INS):
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


def _refuse_pointer(path: Path) -> None:
    """Refuse the text that Git leaves in place of a large file (https://git-lfs.com)."""
    with path.open("rb") as file:
        if file.read(len(_GIT_LFS)) == _GIT_LFS:
            raise BadRequest(f"{path}: a pointer of Git LFS, not the file itself; fetch the file with git lfs pull")
