"""LightGBM, XGBoost and CatBoost: the files that they write themselves."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.request import Request
from onnxserve_converters.sources import sklearn
from onnxserve_converters.sources.tree_libraries import LIBRARIES

_REGRESSIONS = ("regression", "poisson", "gamma", "quantile", "huber", "tweedie")


def load(request: Request, kind: str) -> sklearn.SklearnModel:
    """Return the model of a file that LightGBM, XGBoost or CatBoost wrote; it holds no code.

    Raises:
        BadRequest: it cannot be loaded, or its objective has no graph.
    """
    read: dict[str, Callable[[Path], Any]] = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}
    try:
        estimator = read[kind](request.source)
    except BadRequest:
        raise
    except Exception as error:  # the library's own
        raise BadRequest(f"{request.source}: {LIBRARIES[kind]} cannot load it: {one_line(error, 1)}") from error
    return sklearn.model_of(request, estimator, [])


def _lightgbm(path: Path) -> Any:
    import lightgbm

    booster = lightgbm.Booster(model_file=str(path))
    described = booster.dump_model()
    objective = str(described.get("objective", "none")).split(" ")[0]
    if objective in ("binary", "multiclass", "multiclassova"):
        made: Any = lightgbm.LGBMClassifier()
        made._n_classes = max(2, described["num_class"])
        made._classes = np.arange(made._n_classes)
        made._le = importlib.import_module("sklearn.preprocessing").LabelEncoder().fit(made._classes)
    elif objective.startswith(_REGRESSIONS):
        made = lightgbm.LGBMRegressor()
    else:
        raise BadRequest(
            f"{path}: its objective is {objective}, which has no ONNX graph; supported are binary, multiclass, "
            f"{', '.join(_REGRESSIONS)}"
        )
    made._Booster, made._objective = booster, objective
    made._n_features = made._n_features_in = booster.num_feature()
    made.fitted_ = True
    return made


def _xgboost(path: Path) -> Any:
    import xgboost

    booster = xgboost.Booster(model_file=str(path))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    made: Any = xgboost.XGBClassifier() if objective.startswith(("binary:", "multi:")) else xgboost.XGBRegressor()
    made.load_model(path)
    return made


def _catboost(path: Path) -> Any:
    import catboost

    model = catboost.CatBoost().load_model(str(path))
    classes = getattr(model, "classes_", None)
    made = catboost.CatBoostClassifier() if classes is not None and len(classes) else catboost.CatBoostRegressor()
    return made.load_model(str(path))
