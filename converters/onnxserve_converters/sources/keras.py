"""Keras: .keras, .h5, architecture .json with weights, of Keras 3 and Keras 2, and models of the calling process.

Everything runs on Keras' torch backend: the files of a model do not depend on the backend that wrote them.
"""

import importlib.util
import os
from pathlib import Path

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.request import Request
from onnxserve_converters.sources import base
from onnxserve_converters.sources.base import Model
from onnxserve_converters.sources.keras_files import Architecture, read_archive, read_h5, read_json
from onnxserve_converters.sources.keras_strings import Strings, cut_off_strings


def load(request: Request, kind: str) -> Model:
    """Return the model of a source of the kind "keras", "keras_h5", "keras_json" or "live_keras".

    Raises:
        BadRequest: the model cannot be loaded as requested, or its inputs are described wrongly.
    """
    architecture, weights = _parts(request, kind)
    if architecture is not None and architecture.holds_code and not (request.trust_code or request.in_memory):
        raise BadRequest(f"{request.source}: the model has a Lambda layer: {base.TRUST}")
    strings = Strings()
    if architecture is not None and kind == "keras":
        architecture, strings = cut_off_strings(request.source, architecture)
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": "cpu"}  # Keras reads them on import
    from onnxserve_converters.sources.keras_models import from_architecture, from_class
    from onnxserve_converters.sources.keras_torch import KerasModel

    if architecture is None:
        return KerasModel(request, from_class(request), weights, [])
    try:
        model, notes = from_architecture(request, architecture)
    except BadRequest as error:
        if not architecture.of_keras_2:
            raise
        return _by_tf_keras(request, kind, error)
    loaded = KerasModel(request, model, weights, [*notes, *strings.notes])
    loaded.keep(strings)
    return loaded


def _parts(request: Request, kind: str) -> tuple[Architecture | None, Path]:
    """Return the architecture, None where request.class_path makes the model, and the file of the weights."""
    source, weights = request.source, request.weights
    if kind == "keras_json":
        if weights is None:
            raise BadRequest(f"{source}: an architecture without weights; name the weights file with --weights")
        if not weights.is_file():
            raise BadRequest(f"--weights {weights}: no such file")
        return read_json(source), weights
    if weights is not None:
        raise BadRequest(
            f"--weights {weights}: {source} has its own weights; --weights is for an architecture's .json only"
        )
    if kind != "keras_h5":
        return read_archive(source), source
    architecture = read_h5(source)
    if architecture is None and request.class_path is None:
        raise BadRequest(
            f"{source}: weights without an architecture; name the class with --class package.module:Class, or "
            f"convert the architecture's .json, as model.to_json() writes it, with --weights {source}"
        )
    return architecture, source


def _by_tf_keras(request: Request, kind: str, error: BadRequest) -> Model:
    """Load a file of Keras 2 that Keras 3 cannot read."""
    if kind != "keras_h5":
        raise BadRequest(f"{error}; save the whole model with Keras 2 as an .h5 file") from error
    if any(importlib.util.find_spec(package) is None for package in ("tensorflow", "tf2onnx", "tf_keras")):
        how = "pip install 'onnxserve[tensorflow]', then pip install --no-deps tf_keras"
        raise BadRequest(f"{error}; tf_keras, with TensorFlow, can read it: {how}") from error
    from onnxserve_converters.sources.tensorflow import load_keras2

    try:
        return load_keras2(request)
    except BadRequest as second:
        raise BadRequest(f"{error}; TensorFlow cannot read it either: {second}") from error
