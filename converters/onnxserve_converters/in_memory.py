"""Writes models of the calling process to files, for the worker process that converts them."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.publishing import vanishing_folder
from onnxserve_converters.sources.base import need

OBJECTS = ".objects"
"""Suffix of the file of custom classes beside a .keras file: a pickled dict, by registered name."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A source's file; with `in_memory` it holds an object that the calling process pickled."""

    path: Path
    in_memory: bool


@contextlib.contextmanager
def source_file(source: object) -> Iterator[SourceFile]:
    """Provide the file of a source, which is a path or an object; an object's file is removed at the end.

    Raises:
        BadRequest: the source is neither a path, nor a torch.nn.Module, nor a keras.Model, or cannot be written.
    """
    if isinstance(source, str | os.PathLike):
        yield SourceFile(Path(source), in_memory=False)
        return
    with vanishing_folder(Path(tempfile.gettempdir())) as folder:
        yield _write(source, folder)


def _write(source: object, folder: Path) -> SourceFile:
    # Compared by the names of its classes, so that no framework is imported for it.
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(source).__mro__}
    write: Callable[[Any, Path], None]
    if ("keras", "Model") in kinds:  # first: on the torch backend a Keras model is a torch.nn.Module too
        write, file = _write_keras, SourceFile(folder / "model.keras", in_memory=True)
    elif ("torch", "ScriptModule") in kinds:  # cannot be pickled, and needs no code of this process
        write, file = _write_script, SourceFile(folder / "model.pt", in_memory=False)
    elif ("torch", "Module") in kinds:
        write, file = _write_torch, SourceFile(folder / "model.pickle", in_memory=True)
    else:
        raise BadRequest(
            f"a {type(source).__name__} cannot be converted; expected a path, a torch.nn.Module or a keras.Model"
        )
    try:
        write(source, file.path)
    except BadRequest:
        raise
    except Exception as error:  # pickle's, the framework's, or the object's own
        raise BadRequest(
            f"the {type(source).__name__} cannot be sent to the worker process: {one_line(error)}; save it to a file "
            "and convert the file"
        ) from error
    return file


def _write_torch(module: Any, path: Path) -> None:
    _pickle(module, path, extra="torch")


def _write_script(module: Any, path: Path) -> None:
    module.save(str(path))


def _write_keras(model: Any, path: Path) -> None:
    if not model.built:
        raise BadRequest(f"the {type(model).__name__} has no weights yet; call it once with an input, then convert it")
    keras = sys.modules["keras"]
    kinds = {type(layer) for layer in model._flatten_layers()}  # public attributes miss those in subclassed layers
    own = {keras.saving.get_registered_name(kind): kind for kind in kinds if not kind.__module__.startswith("keras.")}
    model.save(path)
    _pickle(own, path.with_suffix(OBJECTS), extra="keras")


def _pickle(value: object, path: Path, extra: str) -> None:
    """Pickle a value, with the classes of scripts and notebooks; the worker imports all others from their modules."""
    need(extra, "cloudpickle")
    import cloudpickle

    with path.open("wb") as file:
        cloudpickle.dump(value, file)
