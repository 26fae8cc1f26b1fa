"""Converts architectures of Keras 2 to the form in which Keras 3.15 reads them correctly."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.keras_files import nodes

Config = dict[str, Any]

_ANY = object()
_REMOVED: dict[str, Config] = {
    "": {"time_major": False, "rng_type": _ANY},
    "Attention": {"score_mode": "dot"},  # the default, which Keras 3.15 takes for its function keras.layers.dot
    "Conv1DTranspose": {"groups": 1},
    "Conv2DTranspose": {"groups": 1},
    "Conv3DTranspose": {"groups": 1},
    "Depthwise": {"groups": 1},
    "Discretization": {"trainable": _ANY},
    "MultiHeadAttention": dict.fromkeys(("query_shape", "key_shape", "value_shape", "softmax_robust_masking"), _ANY),
    "Separable": dict.fromkeys(("kernel_initializer", "kernel_regularizer", "kernel_constraint"), _ANY) | {"groups": 1},
    "SpatialDropout": {"noise_shape": None, "trainable": _ANY},
}
"""By the start of a class's name: arguments that Keras 3 removed, and the value that has no effect."""

_FUNCTIONAL = ("Functional", "Model")
_RECURRENT = ("RNN", "SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional")
_CONSTANT = "_CONSTANT_VALUE"  # in place of a layer's name, where an input is not a tensor


def repair(config: Config) -> Config:
    """Return {"class_name": ..., "config": ...} of a Sequential or functional model as Keras 3 reads it.

    Raises:
        BadRequest: a layer has an argument that Keras 3 removed, with a value that has an effect.
    """
    repaired = copy.deepcopy(config)
    for node in nodes({"layers": [repaired]}):
        for layer in node.get("layers", ()):
            layer.pop("module", None)  # without it Keras 3 reads a layer as one of an HDF5 file
            _repair_layer(layer)
        for layer in _inner_layers(node):
            functional = layer["class_name"] in _FUNCTIONAL
            layer["module"] = "keras.src.models.functional" if functional else layer.get("module", "keras.layers")
            _repair_layer(layer)
        if "input_layers" in node:
            _repair_calls(node)
    return repaired


def _inner_layers(config: Config) -> Iterator[Config]:
    """Yield the inner layers of a wrapper or a recurrent layer."""
    for part in (config.get("layer"), config.get("backward_layer"), config.get("cell"), *(config.get("cells") or ())):
        if isinstance(part, dict) and "class_name" in part:
            yield part


def _repair_layer(layer: Config) -> None:
    kind = layer["class_name"]
    layer.pop("build_config", None)
    if kind == "Sequential":
        layer["config"] = _sequential(layer["config"])
    config = layer["config"]
    for start, arguments in _REMOVED.items():
        for argument, harmless in arguments.items() if kind.startswith(start) else ():
            if config.pop(argument, harmless) != harmless and harmless is not _ANY:
                raise BadRequest(
                    f"layer {config.get('name', kind)}: Keras 3 supports only {argument}={harmless}; build the model "
                    "without it"
                )
    if kind != "InputLayer":
        config.pop("batch_input_shape", None)
    if isinstance(policy := config.get("dtype"), dict):
        config["dtype"] = policy["config"]["name"]


def _sequential(config: Any) -> Config:
    """Return the configuration of a Sequential, which was a list before Keras 2.2.3, with an input layer."""
    model: Config = {"name": "sequential", "layers": config} if isinstance(config, list) else config
    first = model["layers"][0]
    if first["class_name"] == "InputLayer" or "batch_input_shape" not in first["config"]:
        return model
    given = {"name": "input", "batch_input_shape": first["config"]["batch_input_shape"]}
    if isinstance(dtype := first["config"].get("dtype"), str):
        given["dtype"] = dtype
    return model | {"layers": [{"class_name": "InputLayer", "config": given}, *model["layers"]]}


def _repair_calls(model: Config) -> None:
    """Write the calls of a functional model's layers as Keras 3 does.

    Keras 2 counts the creation of a nested model as its call 0; Keras 3 only for functional models among the outputs.
    """
    classes = {layer["name"]: layer["class_name"] for layer in model["layers"]}
    classes[_CONSTANT] = _CONSTANT

    def tensor(name: str, call: int, output: Any, _: Any = None) -> Any:
        if name == _CONSTANT:
            return output
        call -= classes[name] in (*_FUNCTIONAL, "Sequential")
        history = {"shape": [], "dtype": "float32", "keras_history": [name, call, output]}
        return {"class_name": "__keras_tensor__", "config": history}

    def output(name: str, call: int, output: int) -> Any:
        return [name, call - (classes[name] == "Sequential"), output]

    for layer in model["layers"]:
        calls = []
        for call in layer["inbound_nodes"]:
            beside: list[Config] = []  # the keyword arguments, which Keras 2 writes with each input
            _replace(call, classes, lambda *reference, kept=beside: kept.extend(reference[3:]))
            inputs = _only(_replace(call, classes, tensor))
            keywords = _replace(beside[-1], classes, tensor) if beside else {}
            if layer["class_name"] in _RECURRENT and isinstance(inputs, list):
                inputs, keywords["initial_state"] = inputs[0], inputs[1:]
            calls.append({"args": [inputs], "kwargs": keywords})
        layer["inbound_nodes"] = calls
    model["output_layers"] = _only(_replace(model["output_layers"], classes, output))


def _replace(part: Any, layers: Config, by: Callable[..., Any]) -> Any:
    """Return a structure with another value for each reference [layer, call, output, ...] in it."""
    if isinstance(part, dict):
        return {key: _replace(value, layers, by) for key, value in part.items()}
    if not isinstance(part, list):
        return part
    if len(part) in (3, 4) and isinstance(part[0], str) and part[0] in layers:
        return by(*part)
    return [_replace(value, layers, by) for value in part]


def _only(part: Any) -> Any:
    return part[0] if isinstance(part, list) and len(part) == 1 else part
