"""ONNX graphs of estimators, by skl2onnx, whose faults are mended on the way."""

import copy
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import skl2onnx
from onnx import helper, numpy_helper
from skl2onnx.common import _container, data_types, tree_ensemble
from sklearn.base import BaseEstimator
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer

from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.sources import sklearn_text

TYPES = {
    "float32": data_types.FloatTensorType,
    "float64": data_types.DoubleTensorType,
    "int64": data_types.Int64TensorType,
    "string": data_types.StringTensorType,
}
EMPTY = ""
"""Stands for a missing text in ONNX, whose strings cannot be missing."""

_ONNX_ML_OPSET = 3  # the newest tree operators that skl2onnx 1.20 writes for all estimators


def to_onnx(estimator: Any, inputs: Sequence[InputSpec], outputs: int, opset: int | None) -> onnx.ModelProto:
    """Return an estimator's graph, with its first outputs, in float32.

    Raises:
        Exception: of any class, from skl2onnx.
    """
    double = any(spec.dtype == "float64" for spec in inputs)
    _container.make_node = functools.partial(_make_node, double)
    _mend_trees()
    model = _converted(_prepared(estimator), inputs, opset or skl2onnx.get_latest_tested_opset_version())
    del model.graph.output[outputs:]
    for domain in model.opset_import:
        if domain.domain == "ai.onnx.ml":
            domain.version = max(domain.version, _ONNX_ML_OPSET)
    _mend_roots(model.graph)
    if double:
        _feed_in_float32(model.graph)
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            _append(model.graph, value, "Cast", to=onnx.TensorProto.FLOAT)
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def flatten(model: onnx.ModelProto, output: int) -> None:
    """Leave one axis of an output."""
    value = model.graph.output[output]
    shape = f"{value.name}_shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), shape))
    _append(model.graph, value, "Reshape", shape)
    del value.type.tensor_type.shape.dim[1:]


def _mend_roots(graph: onnx.GraphProto) -> None:
    """Let no rounding below zero reach a square root: distances of a row from itself would be NaN."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Sqrt":
            positive = f"{node.input[0]}_positive"
            graph.node.append(helper.make_node("Relu", [node.input[0]], [positive]))
            node.input[0] = positive
        graph.node.append(node)


def _append(graph: onnx.GraphProto, value: onnx.ValueInfoProto, op_type: str, *more: str, **attributes: Any) -> None:
    """Let an output be what a node makes of it."""
    inner = f"{value.name}_inner"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner if name == value.name else name for name in names]
    graph.node.append(helper.make_node(op_type, [inner, *more], [value.name], **attributes))


def _converted(estimator: Any, inputs: Sequence[InputSpec], opset: int) -> onnx.ModelProto:
    types = [(spec.name, TYPES[spec.dtype]([None, *spec.shape[1:]])) for spec in inputs]
    texts = sklearn_text.options(estimator)
    for options in _tensor_options(estimator):
        try:
            return skl2onnx.convert_sklearn(  # type: ignore[no-any-return]
                estimator,
                initial_types=types,
                options={**texts, **options},
                target_opset={"": opset, "ai.onnx.ml": _ONNX_ML_OPSET},
            )
        except NameError as error:  # its class has no such option
            refused = error
    raise refused


def _tensor_options(estimator: Any) -> list[dict[int, dict[str, bool]]]:
    """Return the options that make skl2onnx write tensors, not a sequence of maps; each class has one of them."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    return [{id(estimator): {"zipmap": False}}, {id(last): {"raw_scores": True}}, {}]


def members(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and all others that it is made of."""
    if isinstance(estimator, BaseEstimator) or hasattr(estimator, "get_params"):  # CatBoost's have another base
        yield estimator
        estimator = list(vars(estimator).values())
    if isinstance(estimator, dict):
        estimator = list(estimator.values())
    if isinstance(estimator, list | tuple | np.ndarray) and not (
        isinstance(estimator, np.ndarray) and estimator.dtype != object
    ):
        for each in estimator:
            if isinstance(each, BaseEstimator | dict | list | tuple | np.ndarray) or hasattr(each, "get_params"):
                yield from members(each)


def _prepared(estimator: Any) -> Any:
    """Return a copy of an estimator that skl2onnx can export, and that gives the same results."""
    estimator = copy.deepcopy(estimator)
    for member in members(estimator):
        match member:
            case VotingClassifier():
                member.flatten_transform = False  # which its predictions do not depend on
            case KBinsDiscretizer(encode="onehot"):
                member.encode = "onehot-dense"
            case SimpleImputer() if member.statistics_.dtype == object:
                member.missing_values = EMPTY
        if hasattr(member, "categories_"):
            member.categories_ = [with_empty(known) for known in member.categories_]
    return estimator


def with_empty(values: Any) -> Any:
    """Return texts with the empty text in place of missing ones; numbers as they are."""
    if values.dtype != object:
        return values
    return np.where(is_missing(values), EMPTY, values).astype(object)


def is_missing(values: Any) -> Any:
    """Return which elements of an array of objects are None or NaN."""
    return (values == None) | (values != values)  # noqa: E711, PLR0124 - by element


def _mend_trees() -> None:
    """Let skl2onnx export scikit-learn's trees as they decide.

    1.20 leaves out the side that missing values take (https://github.com/onnx/sklearn-onnx/issues/1253), and rounds the
    thresholds of histogram boosting to the nearest float32, to the other side of values beside them.
    """
    if isinstance(tree_ensemble.add_tree_to_attribute_pairs, functools.partial):
        return
    mended = {
        name: functools.partial(mend, getattr(tree_ensemble, name))
        for name, mend in (
            ("add_tree_to_attribute_pairs", _with_missing),
            ("add_tree_to_attribute_pairs_hist_gradient_boosting", _with_thresholds),
        )
    }
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("skl2onnx."):
            for name, function in mended.items():
                if hasattr(module, name):
                    setattr(module, name, function)


def _with_missing(
    original: Any, attributes: Any, is_classifier: bool, tree: Any, *arguments: Any, dtype: Any = None, **more: Any
) -> None:
    """Add a tree of scikit-learn, which compares in float32, whatever it is given."""
    del dtype
    original(attributes, is_classifier, tree, *arguments, dtype=np.float32, **more)
    left = [int(side) for side in tree.missing_go_to_left]
    attributes["nodes_missing_value_tracks_true"][-tree.node_count :] = left
    _added.single = True


def _with_thresholds(original: Any, attributes: Any, *arguments: Any, **more: Any) -> None:
    """Add a tree of histogram boosting; skl2onnx rounds its thresholds before it makes the node."""
    start = len(attributes["nodes_values"])
    original(attributes, *arguments, **more)
    _added.exact += attributes["nodes_values"][start:]


@dataclass
class _Added:
    """The trees that were added since the last node was made."""

    single: bool = False
    exact: list[float] = field(default_factory=list)


_added = _Added()


def _make_node(double: bool, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """Call onnx.helper.make_node with booleans converted to integers, and with the thresholds that trees decide by.

    skl2onnx 1.20 passes booleans for HistGradientBoosting, which protobuf 7 does not accept as numbers.
    """
    if op_type.startswith("TreeEnsemble") and "nodes_values" in attributes:
        exact = _added.exact or attributes["nodes_values"]
        single = _added.single or {"BRANCH_LT", "BRANCH_GT"}.intersection(map(_text, attributes["nodes_modes"]))
        _added.single, _added.exact = False, []
        if double and not single:
            attributes = _as_doubles(attributes | {"nodes_values": exact})
        else:
            attributes["nodes_values"] = rounded(exact, attributes["nodes_modes"])
    plain: dict[str, Any] = {
        name: [int(value) if isinstance(value, bool | np.bool) else value for value in values]
        if isinstance(values, list)
        else values
        for name, values in attributes.items()
    }
    return helper.make_node(op_type, inputs, outputs, **plain)


def _text(mode: Any) -> str:
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _feed_in_float32(graph: onnx.GraphProto) -> None:
    """Round what trees take that compare in float32: scikit-learn's, XGBoost's and CatBoost's."""
    nodes = list(graph.node)
    del graph.node[:]
    for i, node in enumerate(nodes):
        doubles = any(each.name.endswith("_as_tensor") for each in node.attribute)
        if node.op_type.startswith("TreeEnsemble") and not doubles:
            single = f"{node.input[0]}_single_{i}"
            graph.node.append(helper.make_node("Cast", [node.input[0]], [single], to=onnx.TensorProto.FLOAT))
            node.input[0] = single
        graph.node.append(node)


def rounded(thresholds: Any, modes: Any) -> list[float]:
    """Return thresholds of float32 that split all values of float32 as these of float64 do.

    x <= t is x <= the largest float32 that is at most t. Those of x < t, which are XGBoost's, are float32 already.
    """
    exact = np.asarray(thresholds, np.float64)
    nearest = exact.astype(np.float32)
    names = np.asarray([_text(mode) for mode in modes])
    down = np.nextafter(nearest, np.float32(-np.inf))
    nearest = np.where((names == "BRANCH_LEQ") & (nearest > exact), down, nearest)
    return [float(value) for value in nearest]


def _as_doubles(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of trees with their numbers as tensors of float64."""
    made = dict(attributes)
    for name in ("nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values"):
        values = made.pop(name, None)
        if values is not None and len(values):
            made[f"{name}_as_tensor"] = numpy_helper.from_array(np.asarray(values, np.float64), name)
    return made
