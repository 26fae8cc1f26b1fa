"""What every source is to the rest: inputs, a reference to compare with, and an export."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from onnxserve.tensor import Array
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import Case, InputSpec

TRUST = (
    "loading it runs code that stands in the file, with your rights; if you trust whoever made it, "
    "say so with --trust-code"
)


class Model(Protocol):
    """A trained model, loaded in its own framework.

    Attributes:
        reference: what `run` runs, for the report, such as "PyTorch 2.13.0".
        inputs: complete descriptions, in the order in which the model takes them.
        versions: of the framework and its exporter, by package.
        labels: class names that the source itself tells, by output.
        notes: what was done to the model on the way, a sentence each, for the report.
    """

    reference: str
    inputs: tuple[InputSpec, ...]
    versions: dict[str, str]
    labels: dict[str, list[str]]
    notes: list[str]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the framework's own outputs, by name, in their order.

        Raises:
            Exception: whatever the framework raises where the model does not run on these arrays.
        """
        ...

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Write the model as ONNX: inputs named as `inputs`, or graph.stand_in(), says, outputs in the order of run().

        Names of outputs, and the declared sizes of all axes, may be the exporter's own: they are set afterwards. No
        output may have the name of an inner value.

        Raises:
            ExportFailed: the exporter could not.
        """
        ...


def search_here() -> None:
    """Let modules of the working directory be imported, as a shell's `python -c` does."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def load_class(path: str) -> Any:
    """Return the class (or factory function) that a path names.

    Args:
        path: "package.module:Class", where modules of the working directory are found, or "file.py:Class". A file is
            imported under its own name, with its folder on the path as if it were run.

    Raises:
        BadRequest: the path has another form, or nothing of that name can be imported.
    """
    module_name, _, name = path.rpartition(":")
    if not (module_name and name):
        raise BadRequest(f"--class {path}: write package.module:Class or file.py:Class")
    search_here()
    try:
        found = _import_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # it is the caller's own code: it may raise anything
        raise BadRequest(f"--class {path}: it cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise BadRequest(f"--class {path}: it is no class")
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
            f"--class {path}: it cannot be made with the arguments {dict(arguments)}: {error}; give others with "
            "--class-args as a JSON object"
        ) from error


def need(extra: str, *packages: str) -> None:
    """Check that packages can be imported.

    Raises:
        BadRequest: one is missing; the message names the extra that brings it.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise BadRequest(
            f"this source needs the package {missing[0]}, which is not installed: pip install 'onnxserve[{extra}]'"
        )


def _import_file(path: Path) -> Any:
    """Return a file's module. It stands in sys.modules, where pickles and Keras look for its classes."""
    file = path.resolve(strict=True)
    sys.path.insert(0, str(file.parent))
    module = importlib.import_module(file.stem)
    if module.__spec__ is None or module.__spec__.origin != str(file):
        raise ImportError(f"another module is called {file.stem}; give the file another name")
    return module
