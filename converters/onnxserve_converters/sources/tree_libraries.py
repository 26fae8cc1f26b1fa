"""The estimators of LightGBM, XGBoost and CatBoost among scikit-learn's, and how skl2onnx exports them."""

import importlib
from typing import Any

import numpy as np
import onnx
import skl2onnx
from skl2onnx.common import shape_calculator
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

from onnxserve_converters.sources.base import need
from onnxserve_converters.sources.sklearn_export import members

LIBRARIES = {"lightgbm": "LightGBM", "xgboost": "XGBoost", "catboost": "CatBoost"}
"""By package, which is also the name of the extra and of the kind of its files."""

_CLASSIFIER = {"zipmap": [True, False], "nocl": [True, False], "raw_scores": [True, False]}


def library(estimator: Any) -> str | None:
    """Return the package of an estimator that is LightGBM's, XGBoost's or CatBoost's."""
    package = type(estimator).__module__.partition(".")[0]
    return package if package in LIBRARIES else None


def libraries(estimator: Any) -> set[str]:
    """Return the packages of an estimator and of all that it is made of, without scikit-learn."""
    return {package for member in members(estimator) if (package := library(member))}


def register(package: str) -> None:
    """Teach skl2onnx the estimators of a library.

    Raises:
        BadRequest: the package that exports them is not installed.
    """
    module = importlib.import_module(package)
    if package == "catboost":
        classes: dict[str, tuple[Any, bool]] = {
            "CatBoostClassifier": (_convert_catboost, True),
            "CatBoostRegressor": (_convert_catboost, False),
        }
    else:
        need(package, "onnxmltools")
        short = {"lightgbm": "LightGbm", "xgboost": "XGBoost"}[package]
        name = f"onnxmltools.convert.{package}.operator_converters.{short}"
        convert = getattr(importlib.import_module(name), f"convert_{package}")
        prefix = {"lightgbm": ("LGBM",), "xgboost": ("XGB", "XGBRF")}[package]
        classes = {
            f"{each}{role}": (convert, role == "Classifier") for each in prefix for role in ("Classifier", "Regressor")
        }
    for name, (function, classifies) in classes.items():
        shapes = (
            shape_calculator.calculate_linear_classifier_output_shapes
            if classifies
            else shape_calculator.calculate_linear_regressor_output_shapes
        )
        options = _CLASSIFIER if classifies else None
        alias = f"{LIBRARIES[package]}{name}"
        parser = _parse_catboost if name == "CatBoostClassifier" else None
        skl2onnx.update_registered_converter(
            getattr(module, name), alias, shapes, function, parser=parser, options=options
        )


def _parse_catboost(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare label and probabilities: skl2onnx knows classifiers by a base class that CatBoost's do not have."""
    del custom_parsers
    operator = scope.declare_local_operator("CatBoostCatBoostClassifier", model)
    operator.inputs = inputs
    text = isinstance(np.asarray(model.classes_).ravel()[0], str)
    label = scope.declare_local_variable("label", (StringTensorType if text else Int64TensorType)())
    operator.outputs.append(label)
    operator.outputs.append(scope.declare_local_variable("probabilities", FloatTensorType()))
    return operator.outputs


def _convert_catboost(scope: Any, operator: Any, container: Any) -> None:
    """Put the one node of CatBoost's own graph in place of an estimator."""
    from catboost.utils import convert_to_onnx_object

    graph = convert_to_onnx_object(operator.raw_operator).graph
    trees = [node for node in graph.node if node.op_type.startswith("TreeEnsemble")]
    if len(trees) != 1 or graph.initializer:
        raise NotImplementedError("CatBoost's graph has more than one node of trees")
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in trees[0].attribute}
    container.add_node(
        trees[0].op_type,
        operator.input_full_names,
        operator.output_full_names,
        op_domain="ai.onnx.ml",
        name=scope.get_unique_operator_name(trees[0].op_type),
        **attributes,
    )
