"""Makes Keras models from architectures and classes. Import it only after KERAS_BACKEND is set."""

import inspect
import pickle
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from keras.src.utils import module_utils

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.in_memory import OBJECTS
from onnxserve_converters.request import Request
from onnxserve_converters.sources import base
from onnxserve_converters.sources.keras2 import repair
from onnxserve_converters.sources.keras_files import Architecture, count_weights, weights_suffix

SAVED_MODEL = "save it with model.export(DIRECTORY) and convert that directory, which TensorFlow runs"
"""The alternative where Keras' torch backend cannot be used, for messages."""

_MISSING = re.compile(r"(?:Could not locate (?:class|function)|Unknown \w+:) '([^']+)'")  # Keras 3.15's words
_NOISE = re.compile(r".*Exception encountered: |\.? Full object config: .*|\x1b\[\d+m", re.DOTALL)
_AVERAGES = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D)
_RESIZES = (keras.layers.Resizing, keras.layers.UpSampling2D)

module_utils.tensorflow._available = False  # Keras would import it to detect its types, which takes seconds
keras.config.disable_traceback_filtering()  # it hides a layer's error among descriptions of its arguments


def from_architecture(request: Request, architecture: Architecture) -> tuple[Any, list[str]]:
    """Return a keras.Model without its weights, and notes on how it was read.

    Raises:
        BadRequest: a class is missing, or Keras 3 cannot read the model, or would compute other results.
    """
    if request.trust_code or request.in_memory:
        keras.config.enable_unsafe_deserialization()
    objects = _custom_objects(request)
    try:
        with keras.saving.custom_object_scope(objects):
            model = _deserialized(architecture, objects)
    except BadRequest:
        raise
    except Exception as error:  # layers raise exceptions of any class
        raise BadRequest(f"{request.source}: {_explained(architecture, error)}") from error
    _refuse_other_results(request, model)
    if not architecture.of_keras_2:
        return model, []
    notes = [f"written by Keras {architecture.version} and read by Keras {keras.__version__}"]
    if _restore_hard_sigmoid(model):
        notes.append("hard_sigmoid is that of Keras 2, clip(0.2 x + 0.5, 0, 1), which Keras 3 defines differently")
    return model, notes


def from_class(request: Request) -> Any:
    """Return a keras.Model of the class that the request names.

    Raises:
        BadRequest: the model cannot be created.
    """
    assert request.class_path is not None
    model = base.make(request.class_path, request.class_arguments)
    if not isinstance(model, keras.Model):
        raise BadRequest(f"--class {request.class_path}: expected a keras.Model, got a {type(model).__name__}")
    return model


def load_weights(model: Any, path: Path) -> None:
    """Load weights into a model that has all its variables.

    Raises:
        BadRequest: the weights do not fit the model.
    """
    suffix = weights_suffix(path)
    if suffix == ".weights.h5" and (arrays := count_weights(path)) > (variables := len(model.variables)):
        raise BadRequest(
            f"{path}: the file has {arrays} arrays, but the model has {variables}; name the weights of this model"
        )
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"model{suffix}")  # Keras decides by the ending
        link.symlink_to(path.absolute())
        try:
            model.load_weights(link)
        except Exception as error:  # ValueError, KeyError and more
            hint = "; a class with arguments must return them from get_config()" if suffix == ".keras" else ""
            raise BadRequest(f"{path}: the weights do not fit the model: {_innermost(error)}{hint}") from error


def forget_states(model: Any) -> list[str]:
    """Make stateful recurrent layers begin each call with zero states, and return their names."""
    stateful = [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    for layer in stateful:
        layer.stateful = False
    return [layer.name for layer in stateful]


def _custom_objects(request: Request) -> dict[str, Any]:
    """Return, by name, the custom classes of an in-memory model, or all that the module of --class defines."""
    if request.in_memory:
        file = request.source.with_suffix(OBJECTS)
        return dict(pickle.loads(file.read_bytes())) if file.exists() else {}  # noqa: S301 - from our own parent
    if request.class_path is None:
        return {}
    named = base.load_class(request.class_path)
    module = inspect.getmodule(named)
    own = [value for value in vars(module).values() if inspect.isclass(value) or inspect.isfunction(value)]
    return {
        name: value
        for value in (*own, named)
        if inspect.getmodule(value) is module
        for name in (value.__name__, keras.saving.get_registered_name(value))
    }


def _deserialized(architecture: Architecture, objects: Mapping[str, Any]) -> Any:
    config = repair(architecture.config) if architecture.of_keras_2 else architecture.config
    if not architecture.is_legacy:
        return keras.saving.deserialize_keras_object({key: config[key] for key in config if key != "compile_config"})
    kind = config["class_name"]
    model_class = objects.get(kind, keras.Sequential if kind == "Sequential" else keras.Model)
    return model_class.from_config(config["config"], custom_objects=dict(objects))


def _refuse_other_results(request: Request, model: Any) -> None:
    """Refuse layers whose results differ from TensorFlow's, as seen with Keras 3.15 and TensorFlow 2.21."""
    for layer in model._flatten_layers():
        feature = None
        if isinstance(layer, _AVERAGES) and _averages_padding(layer):
            feature = "averages with padding='same'"
        elif isinstance(layer, _RESIZES) and layer.interpolation == "bicubic":
            feature = "bicubic interpolation"
        if feature is not None:
            raise BadRequest(
                f"{request.source}: layer {layer.name}: {feature} gives other results on Keras' torch backend, used "
                f"here, than on TensorFlow; {SAVED_MODEL}"
            )


def _averages_padding(layer: Any) -> bool:
    """Whether the torch backend would include padding in a layer's averages, as it does for uneven padding.

    It pads with copies of the edge, so that windows of two are right nevertheless.
    """
    if layer.padding != "same" or max(layer.pool_size) <= 2:
        return False
    try:
        shape = layer.input.shape
    except AttributeError:  # for a layer outside a graph
        shape = [None] * (len(layer.pool_size) + 2)
    lengths = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    for length, size, stride in zip(lengths, layer.pool_size, layer.strides, strict=True):
        if length is None and stride > 1:
            return True
        padding = size - 1 if stride == 1 else max(0, (-(-length // stride) - 1) * stride + size - length)
        if padding % 2:
            return True
    return False


def _restore_hard_sigmoid(model: Any) -> bool:
    """Replace the hard_sigmoid of Keras 3 by that of Keras 2; return whether the model uses it."""
    found = False
    for layer in model._flatten_layers():
        for role in ("activation", "recurrent_activation"):
            if vars(layer).get(role) is keras.activations.hard_sigmoid:
                setattr(layer, role, _hard_sigmoid)
                found = True
    return found


def _hard_sigmoid(x: Any) -> Any:
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _explained(architecture: Architecture, error: Exception) -> str:
    """Return why Keras cannot read an architecture, and the cure."""
    cure = ""
    if architecture.is_legacy and not architecture.of_keras_2:
        cure = "; an .h5 file cannot store functions and operators between tensors: save it as a .keras file"
    elif "requires TensorFlow" in str(error):  # layers that work on strings
        cure = f"; {SAVED_MODEL}"
    if missing := _MISSING.search(str(error)):
        name = missing[1]
        return (
            f"class {name} is not part of Keras {keras.__version__}; if it is your own, name it with --class "
            f"package.module:{name}{cure}"
        )
    return f"Keras {keras.__version__} cannot read it: {_innermost(error)}{cure}"


def _innermost(error: Exception) -> str:
    """Return the innermost cause in an error of Keras, without the configurations that it quotes."""
    return f"{type(error).__name__}: {' '.join(_NOISE.sub('', str(error)).split())[:400]}"
