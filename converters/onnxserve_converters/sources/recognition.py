"""Tell what a source is by what it holds; its name only decides where the content cannot."""

import importlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.request import Request
from onnxserve_converters.sources.base import Model, need

_START = 16  # bytes: as long as the longest mark below
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch.serialization.MAGIC_NUMBER
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))

# The packages that each of the modules beside this one needs; the extra that brings them has the module's name.
_NEEDS = {
    "torch": ("torch", "onnxscript"),
    "keras": ("keras", "h5py", "torch", "onnxscript"),
    "tensorflow": ("tensorflow", "tf2onnx"),
    "sklearn": ("sklearn", "skl2onnx"),
    "onnx": (),
}


def recognise(request: Request) -> str:
    """Return the kind of a source.

    It is "torchscript", "pt2", "state_dict", "keras", "keras_h5", "keras_json", "saved_model", "sklearn", "onnx",
    "live_torch" or "live_keras".

    Raises:
        BadRequest: there is no such file, or it is none of these.
    """
    path = request.source
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise BadRequest(f"{path}: a folder is taken as a TensorFlow SavedModel, and it holds no saved_model.pb")
    if not path.is_file():
        raise BadRequest(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise BadRequest(f"{path}: it cannot be read: {error.strerror}") from error
    if request.live:
        return "live_keras" if path.suffix == ".keras" else "live_torch"
    kind = _by_content(path, start) or _by_name(path)
    if kind is None:
        raise BadRequest(
            f"{path}: it is none of the files that can be converted: TorchScript .pt, torch.export .pt2, state_dict "
            ".pt/.pth/.safetensors, Keras .keras, .h5 or .json, scikit-learn .joblib, .onnx, or a SavedModel folder"
        )
    return kind


def open_source(request: Request) -> tuple[str, Model]:
    """Return the kind of a source and the model in it.

    Raises:
        BadRequest: it cannot be loaded as asked.
    """
    kind = recognise(request)
    return kind, _loader(kind)(request, kind)


def _by_content(path: Path, start: bytes) -> str | None:
    if not start:
        raise BadRequest(f"{path}: it is empty")
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
        raise BadRequest(f"{path}: it begins as a zip archive, and is a broken one: {error}") from error
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
    """Return the kind of files that have no mark of their own, or have lost it."""
    return {
        ".safetensors": "state_dict",
        ".pt": "state_dict",
        ".pth": "state_dict",
        ".joblib": "sklearn",  # compressed
        ".pkl": "sklearn",
        ".onnx": "onnx",
    }.get(path.suffix.lower())


def _is_onnx(start: bytes) -> bool:
    """Say whether a protobuf message begins as an onnx.ModelProto: with an IR version from 3 on, then another field.

    A TensorFlow saved_model.pb begins with a version too, and that is 1.
    """
    version_field, later_fields = 0x08, b"\x12\x1a\x22\x28\x32\x3a\x42"
    return len(start) > 2 and start[0] == version_field and 3 <= start[1] < 0x20 and start[2] in later_fields


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Say whether a file begins with the length of a JSON object, then that object."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _check_keras_json(path: Path) -> None:
    try:
        told = json.loads(path.read_text())
    except ValueError as error:  # of the text, or of its encoding
        raise BadRequest(f"{path}: it is no JSON: {error}") from error
    if not (isinstance(told, dict) and "class_name" in told and "config" in told):
        raise BadRequest(f"{path}: it is JSON, but no architecture as Keras writes it: it has no class_name and config")


def _loader(kind: str) -> Callable[[Request, str], Model]:
    """Return the function load(request, kind) of the module that a kind belongs to."""
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
    load: Callable[[Request, str], Model] = importlib.import_module(f"{__package__}.{name}").load
    return load
