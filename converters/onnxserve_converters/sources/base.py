"""The interface of all sources: inputs, a reference to compare with, and an export."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

TRUST = (
    "loading it runs code from the file with your permissions; if you trust its author, allow that with --trust-code"
)


class Model(Protocol):
    """A trained model, loaded in its own framework.

    Attributes:
        reference: the framework that `run` uses, for the report, such as "PyTorch 2.13.0".
        inputs: complete descriptions, in the order in which the model takes them.
        versions: of the framework and its exporter, by package.
        labels: class names that the source declares, by output.
        notes: changes to the model on loading and export, a sentence each, for the report.
        drawer: draws inputs as the model was made for; None: nothing is known of them.
    """

    reference: str
    inputs: tuple[InputSpec, ...]
    versions: dict[str, str]
    labels: dict[str, list[str]]
    notes: list[str]
    drawer: Drawer | None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the framework's outputs, by name, in their order.

        Raises:
            Exception: of any class, from the framework, if the model fails on these arrays.
        """
        ...

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Write the model as ONNX; inputs are named as in `inputs` or by interface.stand_in(), outputs as in run().

        The names of outputs and the declared sizes of all axes may be the exporter's own: they are set afterwards. No
        output may have the name of an inner value.

        Raises:
            ExportFailed: the exporter failed.
        """
        ...


def search_here() -> None:
    """Allow imports from the working directory, as `python -c` does."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def load_class(path: str) -> Any:
    """Return the class (or factory function) that a path names.

    Args:
        path: "package.module:Class", where modules of the working directory are found, or "file.py:Class". A file is
            imported under its own name, with its folder on the path as if it were run.

    Raises:
        BadRequest: the path has another form, or the class cannot be imported.
    """
    module_name, _, name = path.rpartition(":")
    if not (module_name and name):
        raise BadRequest(f"--class {path}: expected package.module:Class or file.py:Class")
    search_here()
    try:
        found = _import_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # the caller's own code may raise anything
        raise BadRequest(f"--class {path}: cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise BadRequest(f"--class {path}: not a class or function")
    return found


def make(path: str, arguments: Mapping[str, Any]) -> Any:
    """Return an object of the class "package.module:Class".

    Raises:
        BadRequest: as load_class, or the class does not take these arguments.
    """
    try:
        return load_class(path)(**arguments)
    except BadRequest:
        raise
    except Exception as error:
        raise BadRequest(
            f"--class {path}: cannot be created with the arguments {dict(arguments)}: {error}; give other arguments "
            "with --class-args as a JSON object"
        ) from error


def need(extra: str, *packages: str) -> None:
    """Check that packages can be imported.

    Raises:
        BadRequest: one is missing; the message names the extra that installs it.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise BadRequest(
            f"this source needs the package {missing[0]}, which is not installed: pip install 'onnxserve[{extra}]'"
        )


def _import_file(path: Path) -> Any:
    """Import a file as a module. It is entered in sys.modules, where pickles and Keras look up its classes."""
    file = path.resolve(strict=True)
    sys.path.insert(0, str(file.parent))
    module = importlib.import_module(file.stem)
    if module.__spec__ is None or module.__spec__.origin != str(file):
        raise ImportError(f"another module is named {file.stem}; rename the file")
    return module
