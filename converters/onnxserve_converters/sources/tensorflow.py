"""TensorFlow: SavedModels, and the files of Keras 2 that Keras 3 cannot read."""

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxserve.tensor import NUMBERS, Array, strings_array
from onnxserve_converters.cases import Case
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.errors import BadRequest, ExportFailed, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources.base import TRUST, load_class, need
from onnxserve_converters.sources.declared import Declared, complete
from onnxserve_converters.sources.keras_files import nodes, read_h5

_SERVING = "serving_default"


def load(request: Request, kind: str) -> "TensorFlowModel":
    """Return the model of a SavedModel directory.

    Raises:
        BadRequest: it cannot be loaded, or its signature is missing or ambiguous.
    """
    del kind
    tf, path = _tensorflow(), request.source
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow's own, of many classes
        raise BadRequest(f"{path}: TensorFlow cannot load it: {one_line(error)}") from error
    function = _signature(path, loaded.signatures)
    return TensorFlowModel(request, loaded, function, sorted(_takes(function)), sorted(function.structured_outputs))


def load_keras2(request: Request) -> "TensorFlowModel":
    """Return the model of an .h5 file of Keras 2, loaded with tf_keras.

    Raises:
        BadRequest: it cannot be loaded, or may contain code that is not trusted.
    """
    tf, path = _tensorflow(), request.source
    try:
        import tf_keras
    except ImportError:
        raise BadRequest(
            f"{path}: some layers of this Keras 2 file exist only in Keras 2: pip install --no-deps tf_keras "
            "(its dependencies would install a second TensorFlow)"
        ) from None
    architecture = read_h5(path)
    if architecture is None:
        raise BadRequest(f"{path}: weights without an architecture; save the whole model")
    if not request.trust_code and any(node.get("class_name") == "Lambda" for node in nodes(architecture.config)):
        raise BadRequest(f"{path}: the model has a Lambda layer: {TRUST}")  # tf_keras would run its code without asking
    name = (request.class_path or "").rpartition(":")[2]
    custom = {name: load_class(request.class_path)} if request.class_path else {}
    try:
        model = tf_keras.models.load_model(path, custom_objects=custom, compile=False)
    except Exception as error:  # Keras' own, of many classes
        raise BadRequest(f"{path}: Keras 2 cannot load it: {one_line(error)}") from error
    loaded = TensorFlowModel(request, model, _forward(tf, model), model.input_names, model.output_names)
    loaded.reference += f" with tf_keras {tf_keras.__version__}"
    loaded.versions["tf_keras"] = tf_keras.__version__
    return loaded


class TensorFlowModel:
    """A function that TensorFlow runs; implements sources.base.Model.

    Args:
        request: the source and the descriptions of its inputs.
        owner: the object that holds the function's variables and tables.
        function: takes inputs and returns outputs by name; a SavedModel has no order of them.
        inputs, outputs: the names in the order to use.
    """

    def __init__(self, request: Request, owner: Any, function: Any, inputs: list[str], outputs: list[str]) -> None:
        self._tf, path = _tensorflow(), request.source
        if request.opset is not None and request.opset > _latest_opset():
            raise BadRequest(f"--opset {request.opset}: tf2onnx supports at most {_latest_opset()}")
        self._owner, self._function, self._outputs = owner, function, outputs
        declared = [_declared(path, name, _takes(function)[name]) for name in inputs]
        self.inputs = complete(path, declared, request.inputs)
        self.reference = f"TensorFlow {self._tf.__version__}"
        self.versions = {"tensorflow": self._tf.__version__, "tf2onnx": metadata.version("tf2onnx")}
        self.labels: dict[str, list[str]] = {}
        self.drawer: Drawer | None = None
        self.notes: list[str] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the function in TensorFlow."""
        results = self._function(**{name: self._tf.constant(array) for name, array in feeds.items()})
        return {name: _to_array(results[name]) for name in self._outputs}

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Export with tf2onnx."""
        del example
        try:
            onnx.save(self._converted(opset or _latest_opset()), path)
        except Exception as error:  # tf2onnx raises ValueError, KeyError, AssertionError and others
            raise ExportFailed(f"tf2onnx could not export the model: {one_line(error)}") from error

    def _converted(self, opset: int) -> onnx.ModelProto:
        """Convert the function as `python -m tf2onnx.convert --saved-model` does, tables included."""
        from tf2onnx import optimizer, tf_loader, tfonnx

        # TensorFlow sorts inputs and outputs by name; tensors that the function captured come after its inputs.
        inputs = dict(zip(sorted(spec.name for spec in self.inputs), self._function.inputs, strict=False))
        outputs = dict(zip(sorted(self._outputs), self._function.outputs, strict=True))
        given = [inputs[spec.name].name for spec in self.inputs]
        wanted = [outputs[name].name for name in self._outputs]
        frozen, tables = tf_loader.from_trackable(self._owner, self._function, given, wanted, False)
        with self._tf.Graph().as_default() as graph:
            self._tf.import_graph_def(frozen, name="")
            converted = tfonnx.process_tf_graph(
                graph,
                opset=opset,
                input_names=given,
                output_names=wanted,
                shape_override={inputs[spec.name].name: _sizes(spec) for spec in self.inputs},
                tensors_to_rename={inputs[spec.name].name: spec.name for spec in self.inputs},
                initialized_tables=tables,
                custom_op_handlers={"Erfc": (_erfc, [])},
            )
        model: onnx.ModelProto = optimizer.optimize_graph(converted).make_model("")
        return model


def _tensorflow() -> Any:
    """Import TensorFlow without its log and without a GPU, which the server may be using.

    Raises:
        BadRequest: it is not installed.
    """
    need("tensorflow", "tensorflow", "tf2onnx")
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow

    return tensorflow


def _latest_opset() -> int:
    from tf2onnx import constants

    return int(max(constants.OPSET_TO_IR_VERSION))


def _signature(path: Path, signatures: Mapping[str, Any]) -> Any:
    if not signatures:
        raise BadRequest(
            f"{path}: the SavedModel has no signature; save it with one: tf.saved_model.save(..., signatures=...)"
        )
    if _SERVING not in signatures and len(signatures) > 1:
        raise BadRequest(f"{path}: several signatures: {', '.join(signatures)}; save the one to convert as {_SERVING}")
    return signatures[_SERVING if _SERVING in signatures else next(iter(signatures))]


def _takes(function: Any) -> dict[str, Any]:
    return function.structured_input_signature[1]  # type: ignore[no-any-return]


def _forward(tf: Any, model: Any) -> Any:
    """Return a Keras 2 model as a function of its inputs by name, to its outputs by name."""
    names = model.input_names

    @tf.function  # type: ignore[untyped-decorator]
    def forward(**feeds: Any) -> dict[str, Any]:
        arrays = [feeds[name] for name in names]
        results = model(arrays if len(arrays) > 1 else arrays[0], training=False)
        return dict(zip(model.output_names, tf.nest.flatten(results), strict=True))

    takes = zip(names, model.inputs, strict=True)
    return forward.get_concrete_function(**{name: tf.TensorSpec(spec.shape, spec.dtype) for name, spec in takes})


def _declared(path: Path, name: str, spec: Any) -> Declared:
    if spec.dtype.name not in NUMBERS:
        raise BadRequest(
            f"input {name}: {path} declares {spec.dtype.name}; expected a dtype of ONNX: {', '.join(NUMBERS)}"
        )
    return Declared(name, spec.dtype.name, None if spec.shape.rank is None else tuple(spec.shape.as_list()))


def _to_array(tensor: Any) -> Array:
    array: Array = np.asarray(tensor.numpy())
    if array.dtype != object:
        return array
    return strings_array([text.decode() for text in array.ravel().tolist()], array.shape)


def _sizes(spec: InputSpec) -> list[int | None]:
    return [axis if isinstance(axis, int) else None for axis in spec.shape]


def _erfc(context: Any, node: Any, name: str, args: list[Any]) -> Any:
    """Handle Erfc for tf2onnx: write 1 - Erf(x), for exact GELU; ONNX has no Erfc."""
    del args
    from tf2onnx import utils

    x, dtype, shape = node.input[0], context.get_dtype(node.input[0]), context.get_shape(node.input[0])
    one = context.make_const(utils.make_name(name), np.array(1, utils.map_onnx_to_numpy_type(dtype)))
    erf = context.make_node("Erf", [x], shapes=[shape], dtypes=[dtype])
    node.type = "Sub"
    context.replace_inputs(node, [one.output[0], erf.output[0]])
    return node
