"""Objects of the calling process, written to files for the child process that converts them."""

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
"""Suffix of the file beside a .keras file that holds the classes it needs: a pickled dict, by registered name."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A source as a file: `live` tells that it is an object of the calling process, to be unpickled as it is."""

    path: Path
    live: bool


@contextlib.contextmanager
def hand_over(source: object) -> Iterator[Handed]:
    """Give the file of a source, which is a path or an object; that of an object is gone at the end.

    Raises:
        BadRequest: the source is neither a path, nor a torch.nn.Module, nor a keras.Model, or it cannot be written.
    """
    if isinstance(source, str | os.PathLike):
        yield Handed(Path(source), live=False)
        return
    with vanishing_folder(Path(tempfile.gettempdir())) as folder:
        yield _write(source, folder)


def _write(source: object, folder: Path) -> Handed:
    # By the names of its classes: a process that has not imported a framework has no object of it either.
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(source).__mro__}
    write: Callable[[Any, Path], None]
    if ("keras", "Model") in kinds:  # asked first: on its torch backend Keras' models are modules of torch too
        write, handed = _write_keras, Handed(folder / "model.keras", live=True)
    elif ("torch", "ScriptModule") in kinds:  # cannot be pickled, and needs no code of this process
        write, handed = _write_script, Handed(folder / "model.pt", live=False)
    elif ("torch", "Module") in kinds:
        write, handed = _write_torch, Handed(folder / "model.pickle", live=True)
    else:
        raise BadRequest(
            f"a {type(source).__name__} cannot be converted: give a path, a torch.nn.Module or a keras.Model"
        )
    try:
        write(source, handed.path)
    except BadRequest:
        raise
    except Exception as error:  # pickle's, the framework's, or of the object's own code
        raise BadRequest(
            f"the {type(source).__name__} cannot be handed to the process that converts it: {one_line(error)}; "
            "save it to a file, and convert that"
        ) from error
    return handed


def _write_torch(module: Any, path: Path) -> None:
    _pickle(module, path, extra="torch")


def _write_script(module: Any, path: Path) -> None:
    module.save(str(path))


def _write_keras(model: Any, path: Path) -> None:
    if not model.built:
        raise BadRequest(f"the {type(model).__name__} has no weights yet: call it once with an input, then convert it")
    keras = sys.modules["keras"]
    kinds = {type(layer) for layer in model._flatten_layers()}  # the only way to those inside of subclassed layers
    own = {keras.saving.get_registered_name(kind): kind for kind in kinds if not kind.__module__.startswith("keras.")}
    model.save(path)
    _pickle(own, path.with_suffix(OBJECTS), extra="keras")


def _pickle(value: object, path: Path, extra: str) -> None:
    """Pickle a value; what was defined in a script or a notebook goes along, the rest is imported by the child."""
    need(extra, "cloudpickle")
    import cloudpickle

    with path.open("wb") as file:
        cloudpickle.dump(value, file)
