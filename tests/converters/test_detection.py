"""The kind of a source is detected by its content: real files of every kind, under right names and wrong ones."""

import json
import pickle
import zipfile

import h5py
import joblib
import onnx
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.detection import detect_kind, load_source
from support import zoo
from support.converting import request

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # its files are still about

SEQUENTIAL = {"class_name": "Sequential", "config": {"name": "net", "layers": []}}


def keras_archive(path):
    """A .keras file as Keras 3 lays it out."""
    with h5py.File(path.with_suffix(".weights"), "w") as weights:
        weights.create_group("layers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(SEQUENTIAL))
        archive.write(path.with_suffix(".weights"), "model.weights.h5")


def keras_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(SEQUENTIAL)


def onnx_without_a_producer(path):
    """Begins with the graph, or the opset, right after the version, as no exporter's file does."""
    path.write_bytes(zoo.double().SerializeToString(deterministic=True))


def onnx_of_a_producer(path):
    model = zoo.double()
    model.producer_name, model.producer_version, model.domain = "somebody", "1.0", "org.example"
    onnx.save(model, path)


LINEAR = nn.Linear(2, 1)
WRITERS = {
    "script": (lambda path: torch.jit.save(torch.jit.script(LINEAR), path), "torchscript"),
    "trace": (lambda path: torch.jit.save(torch.jit.trace(LINEAR, torch.ones(1, 2)), path), "torchscript"),
    "program": (lambda path: torch.export.save(torch.export.export(LINEAR, (torch.ones(1, 2),)), path), "pt2"),
    "weights": (lambda path: torch.save(LINEAR.state_dict(), path), "state_dict"),
    "module": (lambda path: torch.save(LINEAR, path), "state_dict"),
    "weights before torch 1.6": (
        lambda path: torch.save(LINEAR.state_dict(), path, _use_new_zipfile_serialization=False),
        "state_dict",
    ),
    "safetensors": (lambda path: save_file(LINEAR.state_dict(), path), "state_dict"),
    "Keras archive": (keras_archive, "keras"),
    "Keras HDF5": (keras_h5, "keras_h5"),
    "Keras architecture": (lambda path: path.write_text(json.dumps(SEQUENTIAL)), "keras_json"),
    "indented architecture": (lambda path: path.write_text(json.dumps(SEQUENTIAL, indent=2)), "keras_json"),
    "joblib": (lambda path: joblib.dump(LogisticRegression(), path), "sklearn"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(LogisticRegression())), "sklearn"),
    "ONNX": (onnx_without_a_producer, "onnx"),
    "ONNX of a producer": (onnx_of_a_producer, "onnx"),
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """What each of the WRITERS writes, in bytes."""
    folder = tmp_path_factory.mktemp("written")
    for i, (write, _) in enumerate(WRITERS.values()):
        write(folder / f"{i}.zip")
    return {name: (folder / f"{i}.zip").read_bytes() for i, name in enumerate(WRITERS)}


@pytest.mark.parametrize(
    "name", ["model", "model.onnx", "model.joblib", "model.h5", "model.keras", "model.safetensors"]
)
@pytest.mark.parametrize("written", WRITERS)
def test_a_file_is_known_by_its_content_whatever_it_is_called(tmp_path, contents, written, name):
    (tmp_path / name).write_bytes(contents[written])
    assert detect_kind(request(tmp_path / name)) == WRITERS[written][1]


@pytest.mark.parametrize(
    ("name", "kind"), [("m.pt", "state_dict"), ("m.pth", "state_dict"), ("m.pkl", "sklearn"), ("m.joblib", "sklearn")]
)
def test_a_bare_pickle_is_of_the_framework_that_its_name_belongs_to(tmp_path, name, kind):
    (tmp_path / name).write_bytes(pickle.dumps({"weight": [1.0]}))
    assert detect_kind(request(tmp_path / name)) == kind


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "xz"])
def test_a_compressed_joblib_file_is_known_by_its_name(tmp_path, method):
    joblib.dump(LogisticRegression(), tmp_path / "model.joblib", compress=(method, 3))
    assert detect_kind(request(tmp_path / "model.joblib")) == "sklearn"


def test_a_folder_with_a_saved_model_is_one(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    assert detect_kind(request(tmp_path)) == "saved_model"


@pytest.mark.parametrize(("name", "kind"), [("module.pt", "live_torch"), ("model.keras", "live_keras")])
def test_an_in_memory_model_is_detected_by_its_name(tmp_path, name, kind):
    (tmp_path / name).write_bytes(pickle.dumps(None))
    assert detect_kind(request(tmp_path / name, in_memory=True)) == kind


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.pt", b"", "the file is empty"),
        ("notes.txt", b"a model, said to be", "unknown file format; expected TorchScript .pt, "),
        ("notes", b"ab", "unknown file format"),
        ("saved_model.pb", b"\x08\x01\x12\x00", "unknown file format"),
        ("cut.keras", b"PK\x03\x04 and no more", "damaged zip archive"),
        ("cut.json", b'{"class_name": "Sequential", ', "not valid JSON"),
        ("latin.json", b'{"class_name": "\xe9"}', "not valid JSON"),
        ("list.json", b"[1, 2]", "not a Keras architecture"),
        ("settings.json", b'{"rate": 1}', "not a Keras architecture"),
    ],
)
def test_a_file_that_is_no_model_is_refused_and_named(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest) as refused:
        detect_kind(request(tmp_path / name))
    assert str(refused.value).startswith(f"{tmp_path / name}: {why}")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadRequest, match="unknown file format"):
        detect_kind(request(tmp_path / "model.zip"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"missing.pt: no such file"):
        detect_kind(request(tmp_path / "missing.pt"))


def test_a_folder_without_a_saved_model_is_refused(tmp_path):
    with pytest.raises(
        BadRequest, match=r"unknown kind of directory; expected a TensorFlow SavedModel, with saved_model.pb, or"
    ):
        detect_kind(request(tmp_path))


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    with pytest.raises(BadRequest, match=r"loop.pt: no such file"):
        detect_kind(request(tmp_path / "loop.pt"))


def test_a_detected_source_is_loaded_by_its_module(tmp_path):
    onnx.save(zoo.double(), tmp_path / "model")
    kind, model = load_source(request(tmp_path / "model"))
    assert kind == "onnx"
    assert [str(spec) for spec in model.inputs] == ["x=float32[batch,3]"]
