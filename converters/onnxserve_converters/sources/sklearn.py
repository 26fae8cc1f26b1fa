"""scikit-learn: estimators and pipelines in joblib files or pickles, exported by skl2onnx."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import skl2onnx
import sklearn
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.errors import BadRequest, ExportFailed, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources import sklearn_text
from onnxserve_converters.sources.base import TRUST, need
from onnxserve_converters.sources.sklearn_export import EMPTY, TYPES, is_missing, members, to_onnx
from onnxserve_converters.sources.sklearn_rows import FittedRows
from onnxserve_converters.sources.sklearn_trials import Found, find
from onnxserve_converters.sources.tree_libraries import LIBRARIES, libraries, library, register

Answers = Mapping[str, Callable[[Any], Any]]
"""By output, in the order in which skl2onnx writes them, the function that computes it."""


def load(request: Request, kind: str) -> "SklearnModel":
    """Return the model of a joblib file or a pickle.

    Raises:
        BadRequest: its code is not trusted, or it cannot be loaded or converted.
    """
    del kind
    path = request.source
    if not request.trust_code:
        raise BadRequest(f"{path}: the file is a pickle: {TRUST}")
    estimator, notes = _unpickled(path)
    if not (isinstance(estimator, BaseEstimator) or library(estimator)):
        raise BadRequest(f"{path}: expected a scikit-learn estimator, got a {type(estimator).__name__}")
    return model_of(request, estimator, notes)


def model_of(request: Request, estimator: Any, notes: list[str]) -> "SklearnModel":
    """Return the model of a trained estimator, with the inputs that were found to give its results.

    Raises:
        BadRequest: it is not trained, or cannot be converted.
    """
    path = request.source
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise BadRequest(f"{path}: the estimator is not trained: {one_line(error)}") from error
    for package in libraries(estimator):
        register(package)
    answers = _answers(path, estimator)
    inputs = _inputs(path, estimator, request.inputs)
    candidates = [SklearnModel(estimator, each, answers, notes) for each in _choices(inputs)]
    return _settled(find(candidates, request))


class SklearnModel:
    """A trained estimator; implements sources.base.Model.

    Args:
        estimator: a classifier, a regressor or any other, or a pipeline that ends in one.
        inputs: one of shape [batch, features], or a column [batch, 1] each; for texts [batch] or [batch, 1].
        answers: its outputs.
        notes: warnings on loading it.

    Attributes:
        found: the result of the trials, which export() writes.
    """

    found: Found

    def __init__(
        self, estimator: BaseEstimator, inputs: tuple[InputSpec, ...], answers: Answers, notes: list[str]
    ) -> None:
        self._estimator, self._answers = estimator, answers
        self.inputs = inputs
        others = {LIBRARIES[package]: importlib.import_module(package).__version__ for package in libraries(estimator)}
        self.versions = {"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__, **others}
        self.reference = ", ".join(f"{name} {self.versions[name]}" for name in others or ("scikit-learn",))
        self.labels = _labels(estimator, answers)
        self.notes = notes
        self._missing = _missing_text(estimator)
        self.fitted = self._fitted_rows()
        self.drawer: Drawer | None = self.fitted

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the estimator on values converted to the inputs' dtypes."""
        table = _table(self._estimator, {spec.name: feeds[spec.name] for spec in self.inputs}, self._missing)
        return {name: _as_in_onnx(name, answer(table)) for name, answer in self._answers.items()}

    def graph(self, opset: int | None) -> onnx.ModelProto:
        """Return skl2onnx's graph."""
        return to_onnx(self._estimator, self.inputs, len(self._answers), opset)

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Write the graph that was found to be equal.

        Raises:
            ExportFailed, NotProved: none was.
        """
        del example, opset
        if self.found.graph is None:
            raise self.found.error or ExportFailed("nothing was exported")
        onnx.save(self.found.graph, path)

    def _fitted_rows(self) -> FittedRows | None:
        if sklearn_text.reads_texts(self._estimator):
            return None
        names, columns, start = list(getattr(self._estimator, "feature_names_in_", ())), {}, 0
        for spec in self.inputs:
            width = int(spec.shape[1])
            by_name = {each.name for each in self.inputs} == set(names)
            columns[spec.name] = [names.index(spec.name)] if by_name else list(range(start, start + width))
            start += width
        drawer = FittedRows(self._estimator, self.inputs, columns, self.run)
        return drawer if drawer.notes else None


def _choices(inputs: tuple[InputSpec, ...]) -> list[tuple[InputSpec, ...]]:
    """Return the inputs as they are, and with float64 in place of float32."""
    wide = tuple(replace(spec, dtype="float64") if spec.dtype == "float32" else spec for spec in inputs)
    return [inputs] if wide == inputs else [inputs, wide]


def _settled(found: Found) -> SklearnModel:
    model = found.candidate
    assert isinstance(model, SklearnModel)
    model.found = found
    model.notes = [*model.notes, *found.notes]
    return model


def _unpickled(path: Path) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        try:
            loaded = joblib.load(path)
        except Exception as error:  # a pickle may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name in LIBRARIES:
                need(error.name, error.name)
            raise BadRequest(
                f"{path}: cannot be loaded: {one_line(error)}; all modules that the model uses must be installed, and "
                f"scikit-learn must fit it: {sklearn.__version__} is installed"
            ) from error
    versions = {str(getattr(warning.message, "original_sklearn_version", "")) for warning in caught} - {""}
    return loaded, [
        f"trained with scikit-learn {version}, but converted with {sklearn.__version__}" for version in versions
    ]


def _answers(path: Path, estimator: Any) -> Answers:
    """Return the outputs of an estimator, as skl2onnx writes them."""
    match get_tags(estimator).estimator_type:
        case "classifier" if library(estimator) == "catboost":  # its labels have two axes
            return {"label": lambda table: np.ravel(estimator.predict(table)), "probabilities": estimator.predict_proba}
        case "classifier" if hasattr(estimator, "predict_proba"):
            return {"label": estimator.predict, "probabilities": estimator.predict_proba}
        case "classifier" if len(estimator.classes_) > 2 and hasattr(estimator, "decision_function"):
            return {"label": estimator.predict, "scores": estimator.decision_function}
        case "classifier":  # for two classes the form of skl2onnx's scores varies by estimator
            return {"label": estimator.predict}
        case "regressor":
            return {"prediction": _columns(estimator.predict)}
        case "clusterer" if hasattr(estimator, "predict") and hasattr(estimator, "transform"):
            return {"label": estimator.predict, "distances": estimator.transform}
        case "density_estimator" if hasattr(estimator, "predict_proba"):
            return {"label": _columns(estimator.predict), "probabilities": estimator.predict_proba}
        case "outlier_detector" if hasattr(estimator, "predict"):
            return {"label": _columns(estimator.predict), "scores": _columns(estimator.decision_function)}
        case _ if hasattr(estimator, "transform"):
            return {"transformed": estimator.transform}
    raise BadRequest(f"{path}: a {type(estimator).__name__} can neither predict nor transform new rows")


def _columns(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a method whose result always has two axes."""
    return lambda table: np.asarray(method(table)).reshape(len(table), -1)


def _inputs(path: Path, estimator: Any, described: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    sklearn_text.check(path, estimator)
    words = sklearn_text.words(estimator)
    inputs = (_text if sklearn_text.reads_texts(estimator) else _columns_of)(path, estimator, described)
    return tuple(replace(spec, words=words) if spec.dtype == "string" else spec for spec in inputs)


def _text(path: Path, estimator: Any, described: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    del estimator
    if not described:
        return (InputSpec("text", "string", ("batch",)),)
    (spec, *others) = described
    if others or spec.dtype != "string" or len(spec.shape) not in (1, 2) or spec.shape[1:] not in ((), (1,)):
        raise BadRequest(
            f"--input {(others or [spec])[0]}: {path} reads texts, one a row; expected one input, text=string[batch] "
            "or text=string[batch,1], or none"
        )
    return described


def _columns_of(path: Path, estimator: Any, described: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    features = getattr(estimator, "n_features_in_", None) or len(getattr(estimator, "feature_names_", ())) or None
    names = getattr(estimator, "feature_names_in_", None)
    if not described:
        if features is None or (names is not None and _selects_by_name(estimator)):
            columns = f", which are {', '.join(names)}" if names is not None else ""
            raise BadRequest(f"{path}: describe its columns{columns}: --input name=float32[batch,1] for each")
        known = tuple(map(str, names)) if names is not None else ()
        return (InputSpec("features", "float32", ("batch", features), columns=known),)
    for spec in described:
        if spec.dtype not in TYPES or len(spec.shape) != 2 or not isinstance(spec.shape[1], int):
            raise BadRequest(
                f"--input {spec}: scikit-learn reads tables; expected one input [batch,features] or columns [batch,1], "
                f"of {', '.join(TYPES)}"
            )
    if features is not None and (total := sum(int(spec.shape[1]) for spec in described)) != features:
        raise BadRequest(f"--input: {path} takes {features} columns, but {total} are described")
    if names is not None and len(described) > 1:
        if unknown := [spec.name for spec in described if spec.name not in names]:
            raise BadRequest(f"--input {unknown[0]}: unknown column; {path} has {', '.join(names)}")
        if importlib.util.find_spec("pandas") is None:
            raise BadRequest(f"{path}: trained on a data frame, which needs pandas: pip install pandas")
    return described


def _selects_by_name(estimator: Any) -> bool:
    """Whether a step selects columns of a data frame."""
    parts = [estimator, *estimator.get_params().values()]
    return any(isinstance(part, ColumnTransformer) for part in parts)


def _missing_text(estimator: Any) -> Any:
    """Return what stands for a missing text in scikit-learn: None or NaN; "" where no text can be missing."""
    for member in members(estimator):
        texts = [np.asarray(known, dtype=object) for known in getattr(member, "categories_", ())]
        if any(known.dtype == object and EMPTY in known for known in texts):
            return EMPTY
        for known in texts:
            if any(isinstance(value, str) for value in known) and is_missing(known).any():
                return next(iter(known[is_missing(known)]))
        if isinstance(member, SimpleImputer) and member.statistics_.dtype == object:
            return member.missing_values
    return EMPTY


def _table(estimator: Any, feeds: Mapping[str, Array], missing: Any) -> Any:
    """Combine the inputs to the form that the estimator was trained on: texts, a data frame, or one array."""
    if sklearn_text.reads_texts(estimator):
        (texts,) = feeds.values()
        return texts.ravel()
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feeds.items()}
    if missing != EMPTY:
        wide = {
            name: np.where(array == EMPTY, missing, array) if _is_text(array) else array for name, array in wide.items()
        }
    names = list(getattr(estimator, "feature_names_in_", ()))
    if set(names) == set(wide):
        import pandas

        return pandas.DataFrame({name: wide[name][:, 0] for name in names})
    arrays = list(wide.values())
    return np.hstack([array.astype(object) for array in arrays] if any(map(_is_text, arrays)) else arrays)


def _is_text(array: Array) -> bool:
    return array.dtype == object


def _as_in_onnx(name: str, values: Any) -> Array:
    """Return an output of an estimator in skl2onnx's dtype: strings, int64 for classes, float32 for all others."""
    array: Array = (
        values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    )  # encoders give sparse matrices
    if array.dtype.kind in "OU":
        return array.astype(object)
    if name != "label":
        return array.astype(np.float32)
    whole: Array = array.astype(np.int64)
    return whole if np.array_equal(whole, array) else array


def _labels(estimator: Any, answers: Answers) -> dict[str, list[str]]:
    """Return the class names, for the output that has a column for each."""
    classes = getattr(estimator, "classes_", None)
    by_class = [name for name in answers if name in ("probabilities", "scores")]
    if not isinstance(classes, np.ndarray):
        return {}
    return {name: [str(each) for each in classes] for name in by_class}
