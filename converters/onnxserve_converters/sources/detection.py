"""Detects the kind of a source by its content, and by its name only where the content is ambiguous."""

import importlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.request import Request
from onnxserve_converters.sources.base import Model, need

_START_BYTES = 17  # as many as the longest signature below
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch.serialization.MAGIC_NUMBER
_NATIVE_TREES = {  # written by the libraries themselves; XGBoost's as JSON and as UBJSON
    b"tree\nversion=": "lightgbm",
    b'{"learner":': "xgboost",
    b"{L\0\0\0\0\0\0\0\x07learner": "xgboost",
    b"CBM1": "catboost",
}
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))

# The packages that each source needs, by the extra that installs them, which has the source module's name; the module
# trees reads files of three extras.
_NEEDS = {
    "torch": ("torch", "onnxscript"),
    "keras": ("keras", "h5py", "torch", "onnxscript"),
    "tensorflow": ("tensorflow", "tf2onnx"),
    "sklearn": ("sklearn", "skl2onnx"),
    "lightgbm": ("lightgbm", "onnxmltools", "sklearn", "skl2onnx"),
    "xgboost": ("xgboost", "onnxmltools", "sklearn", "skl2onnx"),
    "catboost": ("catboost", "sklearn", "skl2onnx"),
    "onnx": (),
    "huggingface": ("torch", "onnxscript", "safetensors", "transformers"),
}


# What to do with directories that are no models of one of these kinds, by a file that they have.
_OTHER_FOLDERS = {
    "adapter_config.json": "the weights of an adapter; merge them into the model that they belong to, and save that: "
    "model.merge_and_unload().save_pretrained(DIRECTORY)",
    "model_index.json": "a pipeline of several models; convert the directory of one of them, each by itself",
    "modules.json": "a Sentence Transformers model without config.json; convert the directory of its transformer",
}


def detect_kind(request: Request) -> str:
    """Return the kind of a source.

    One of "torchscript", "pt2", "state_dict", "keras", "keras_h5", "keras_json", "saved_model", "sklearn", "lightgbm",
    "xgboost", "catboost", "onnx", "huggingface", "live_torch" or "live_keras".

    Raises:
        BadRequest: the file does not exist, or is of no supported kind.
    """
    path = request.source
    if path.is_dir():
        return _by_files(path)
    if not path.is_file():
        raise BadRequest(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from error
    if request.in_memory:
        return "live_keras" if path.suffix == ".keras" else "live_torch"
    kind = _by_content(path, start) or _by_name(path)
    if kind is None:
        raise BadRequest(
            f"{path}: unknown file format; expected TorchScript .pt, torch.export .pt2, state_dict "
            ".pt/.pth/.safetensors, Keras .keras, .h5 or .json, scikit-learn .joblib, "
            "LightGBM .txt, XGBoost .json/.ubj, CatBoost .cbm, .onnx, or the directory of a SavedModel or of a Hugging "
            "Face model"
        )
    return kind


def load_source(request: Request) -> tuple[str, Model]:
    """Return the kind of a source and the model in it.

    Raises:
        BadRequest: the source cannot be loaded as requested.
    """
    kind = detect_kind(request)
    if request.task is not None and kind != "huggingface":
        raise BadRequest(f"--task {request.task}: {request.source} is not a Hugging Face model, which alone has a task")
    return kind, _loader(kind)(request, kind)


def _by_files(folder: Path) -> str:
    """Return the kind of a directory."""
    if (folder / "saved_model.pb").is_file():
        return "saved_model"
    if (folder / "config.json").is_file():
        return "huggingface"
    for file, cure in _OTHER_FOLDERS.items():
        if (folder / file).is_file():
            raise BadRequest(f"{folder}: {cure}")
    raise BadRequest(
        f"{folder}: unknown kind of directory; expected a TensorFlow SavedModel, with saved_model.pb, or a Hugging "
        "Face model, with config.json; for another model name its file"
    )


def _by_content(path: Path, start: bytes) -> str | None:
    if not start:
        raise BadRequest(f"{path}: the file is empty")
    for signature, kind in _NATIVE_TREES.items():
        if start.startswith(signature):
            return kind
    if start.startswith(_HDF5):
        return "keras_h5"
    if start.startswith(_TORCH_BEFORE_1_6):
        return "state_dict"
    if start.startswith(_PICKLES):
        return "state_dict" if path.suffix.lower() in (".pt", ".pth") else "sklearn"
    if _is_onnx(start):
        return "onnx"
    if _is_safetensors(path, start):
        return "state_dict"
    if start.startswith(_ZIP):
        return _in_archive(path)
    if start.startswith(b"{") or path.suffix == ".json":
        _check_keras_json(path)
        return "keras_json"
    return None


def _in_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise BadRequest(f"{path}: damaged zip archive: {error}") from error
    if "config.json" in names and "model.weights.h5" in names:
        return "keras"
    if any(name.endswith("/models/model.json") for name in names):
        return "pt2"
    if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        return "state_dict"
    return None


def _by_name(path: Path) -> str | None:
    """Return the kind by the ending of a file that has no signature, or a damaged one."""
    return {
        ".safetensors": "state_dict",
        ".pt": "state_dict",
        ".pth": "state_dict",
        ".joblib": "sklearn",  # compressed
        ".pkl": "sklearn",
        ".onnx": "onnx",
    }.get(path.suffix.lower())


def _is_onnx(start: bytes) -> bool:
    """Whether a protobuf message begins as an onnx.ModelProto: with an IR version from 3 on, then another field.

    A TensorFlow saved_model.pb begins with a version too, which is 1.
    """
    version_field, later_fields = 0x08, b"\x12\x1a\x22\x28\x32\x3a\x42"
    return len(start) > 2 and start[0] == version_field and 3 <= start[1] < 0x20 and start[2] in later_fields


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file begins with the length of a JSON object, then that object."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _check_keras_json(path: Path) -> None:
    try:
        architecture = json.loads(path.read_text())
    except ValueError as error:  # of the text, or of its encoding
        raise BadRequest(f"{path}: not valid JSON: {error}") from error
    if not (isinstance(architecture, dict) and "class_name" in architecture and "config" in architecture):
        raise BadRequest(
            f"{path}: not a Keras architecture: expected a JSON object with class_name and config, as model.to_json() "
            "writes it"
        )


def _loader(kind: str) -> Callable[[Request, str], Model]:
    """Return the function load(request, kind) of a kind's source module."""
    match kind:
        case "torchscript" | "pt2" | "state_dict" | "live_torch":
            name = "torch"
        case "keras" | "keras_h5" | "keras_json" | "live_keras":
            name = "keras"
        case "saved_model":
            name = "tensorflow"
        case _:
            name = kind
    need(name, *_NEEDS[name])
    module = "trees" if kind in _NATIVE_TREES.values() else name
    load: Callable[[Request, str], Model] = importlib.import_module(f"{__package__}.{module}").load
    return load
