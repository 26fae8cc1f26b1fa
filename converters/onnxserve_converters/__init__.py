"""Converts trained models of PyTorch, Keras, TensorFlow and scikit-learn to ONNX, compares, and publishes them.

    from onnxserve_converters import convert

    convert("lenet.pt", to="models/lenet", inputs=["image=float32[batch,3,32,32]"])

A conversion runs in a worker process (worker.py, pipeline.py) that the calling process supervises (conversion.py): the
framework loads the model (sources/), runs it on generated arrays (cases.py, parity.py) and exports it; the graph is
corrected and checked (interface.py, graph.py), run in ONNX Runtime at sizes it was not exported with (runtime.py),
compared with the framework (parity.py), optimized on request (optimization.py), and then published (publishing.py).
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# As in onnxserve_server: before ONNX Runtime is first imported, which reports its use unless this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from onnxserve_converters.api import convert
    from onnxserve_converters.conversion import Conversion
    from onnxserve_converters.errors import BadRequest, ConverterError, ExportFailed, NotProved
    from onnxserve_converters.inputs import InputSpec
    from onnxserve_converters.inspection import inspect

__all__ = [
    "BadRequest",
    "Conversion",
    "ConverterError",
    "ExportFailed",
    "InputSpec",
    "NotProved",
    "convert",
    "inspect",
]

_MODULES = {"Conversion": "conversion", "InputSpec": "inputs", "convert": "api", "inspect": "inspection"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the worker process imports this package too, and needs little of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
