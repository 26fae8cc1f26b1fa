import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxserve_converters
from onnxserve_converters import BadRequest, Conversion, ExportFailed, InputSpec, convert
from support import zoo

DIGITS = Path(__file__).parents[2] / "examples/models/digits/1/model.onnx"
FRAMEWORKS = ("onnx", "onnxruntime", "torch", "keras", "tensorflow", "sklearn")


def python(program, *arguments, **environment):
    """Run a program in a process of its own and return what it printed, from JSON."""
    ended = subprocess.run(
        [sys.executable, *(("-c", program) if isinstance(program, str) else (program,)), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_importing_the_package_imports_no_framework_and_no_runtime():
    loaded = python(
        "import sys, json; from onnxserve_converters import convert; "
        f"print(json.dumps([name for name in {FRAMEWORKS} if name in sys.modules]))"
    )
    assert loaded == []


def test_all_that_is_public_is_there():
    assert all(getattr(onnxserve_converters, name).__doc__ for name in onnxserve_converters.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = onnxserve_converters.nothing


def test_a_file_is_converted_and_published(tmp_path):
    stages = []
    done = convert(
        str(DIGITS),
        tmp_path / "models" / "digits",
        inputs=[InputSpec("image", "float32", ("rows", 3, 32, 32))],
        outputs=["scores"],
        sizes={"rows": [2, 9]},
        ranges={"image": (0, 1)},
        tolerances={"float32": 1e-3},
        labels=list("abcdefghij"),
        doc="Reads digits.",
        progress=stages.append,
    )
    assert isinstance(done, Conversion)
    assert done.path == tmp_path / "models" / "digits" / "1"
    assert stages[0] == "load"
    session = onnxruntime.InferenceSession(done.path / "model.onnx")
    assert [value.name for value in session.get_outputs()] == ["scores"]
    assert session.get_inputs()[0].shape == ["rows", 3, 32, 32]
    assert session.get_modelmeta().description == "Reads digits."
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == {"scores": list("abcdefghij")}
    assert {row["sizes"]["rows"] for row in done.report["proof"]["parity"]} == {2, 9}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"inputs": ["x=float32[n]", "x=float32[n]"]}, "input x: described twice"),
        ({"inputs": ["x"]}, "expected name=dtype"),
        ({"tolerances": {"int8": 1}}, "tolerance int8: only float16, bfloat16, float32, float64 have a tolerance"),
        ({"tolerances": {"float32": -1}}, "tolerance float32: -1 is not a valid share"),
        ({"tolerances": {"float32": float("nan")}}, "tolerance float32: nan is not a valid share"),
        ({"max_error": float("inf")}, "max_error: inf is not a valid share"),
        ({"to": "models/..", "inputs": []}, "expected REPOSITORY/NAME"),
        ({"quantize": "int8"}, "--quantize int8: expected dynamic or static"),
        ({"quantize": "static"}, "--quantize static needs realistic inputs: give --calibration"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(asked, says, tmp_path):
    with pytest.raises(BadRequest) as caught:
        convert(DIGITS, asked.pop("to", tmp_path / "models" / "net"), **asked)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_limits_are_passed_on(tmp_path):
    with pytest.raises(ExportFailed, match=r"took longer than 0.1 s"):
        convert(DIGITS, tmp_path / "net", timeout=0.1)
    with pytest.raises(ExportFailed, match="MiB of memory"):
        convert(DIGITS, tmp_path / "net", memory_limit=10 << 20)


@pytest.mark.parametrize("source", [3, None, object(), ["a"], np.zeros(3)])
def test_what_is_no_model_is_refused(source, tmp_path):
    with pytest.raises(BadRequest, match=r"cannot be converted; expected a path, a torch.nn.Module or a keras.Model"):
        convert(source, tmp_path / "net")


TORCH = """
import json, sys
import torch
from parts import Cell
from onnxserve_converters import BadRequest, convert

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Cell()
        self.dropout = torch.nn.Dropout()
    def forward(self, x):
        return self.dropout(self.cell(x)) + 1

torch.manual_seed(0)
net = Net()
done = convert(net, sys.argv[1], inputs=["x=float32[batch,4]"], outputs=["y"])
assert net.training, "the caller's module was touched"
scripted = convert(torch.jit.script(Cell()), sys.argv[1], inputs=["x=float32[batch,4]"])

net.lock = __import__("threading").Lock()
try:
    convert(net, sys.argv[1], inputs=["x=float32[batch,4]"])
except BadRequest as error:
    refused = str(error)
with torch.no_grad():
    ones = net.eval()(torch.ones(5, 4)).tolist()
print(json.dumps([done.report["source"], str(done.path), ones, scripted.report["source"]["kind"], refused]))
"""

PARTS = """
import torch

class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
    def forward(self, x):
        return torch.tanh(self.linear(x))
"""


@pytest.fixture
def script(tmp_path):
    """Write a program and modules beside it, and run it with a target; none of its objects may be left in a file."""

    def run(program, **modules):
        for name, text in {"program": program, **modules}.items():
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "scratch").mkdir()
        result = python(tmp_path / "program.py", tmp_path / "models" / "net", TMPDIR=str(tmp_path / "scratch"))
        assert not list((tmp_path / "scratch").glob(".onnxserve-*"))
        return result

    return run


def run_version(path, **feeds):
    (answer,) = onnxruntime.InferenceSession(Path(path) / "model.onnx").run(None, feeds)
    return answer


def test_a_module_of_a_script_is_converted_with_what_it_imports(script):
    pytest.importorskip("torch")
    source, path, wanted, scripted, refused = script(TORCH, parts=PARTS)
    assert source == {"kind": "live_torch"}
    np.testing.assert_allclose(run_version(path, x=np.ones((5, 4), np.float32)), wanted, rtol=1e-5)
    assert scripted == "torchscript"
    assert refused.startswith("the Net cannot be sent to the worker process: TypeError: ")
    assert refused.endswith("save it to a file and convert the file")


KERAS = """
import json, sys
sys.modules["tensorflow"] = None  # Keras would import it, and that takes seconds
import keras, numpy as np
from onnxserve_converters import BadRequest, convert

class Squeeze(keras.layers.Layer):
    def __init__(self, units, **more):
        super().__init__(**more)
        self.units = units
        self.dense = keras.layers.Dense(units)
    def build(self, shape):
        self.dense.build(shape)
    def call(self, x):
        return keras.ops.tanh(self.dense(x))
    def get_config(self):
        return {**super().get_config(), "units": self.units}

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

keras.utils.set_random_seed(0)
net = keras.Sequential([keras.Input((4,), name="x"), Squeeze(8), Twice(), keras.layers.Dense(3)])
done = convert(net, sys.argv[1])
try:
    convert(keras.Sequential([keras.layers.Dense(3)]), sys.argv[1])
except BadRequest as error:
    refused = str(error)
ones = np.asarray(keras.ops.convert_to_numpy(net(np.ones((5, 4), "float32")))).tolist()
print(json.dumps([done.report["source"], str(done.path), ones, refused]))
"""


def test_a_keras_model_of_a_script_is_converted_with_its_own_layers(script, monkeypatch):
    pytest.importorskip("keras")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    source, path, wanted, refused = script(KERAS)
    assert source == {"kind": "live_keras"}
    np.testing.assert_allclose(run_version(path, x=np.ones((5, 4), np.float32)), wanted, rtol=1e-5)
    assert "call it once" in refused


WITHOUT = """
import json, sys
from pathlib import Path
from onnxserve_converters import BadRequest
from onnxserve_converters.pipeline import run
from onnxserve_converters.request import Request

sys.modules.update(dict.fromkeys(sys.argv[3].split()))  # None: not to be found
try:
    run(Request(source=Path(sys.argv[1])), Path(sys.argv[2]), lambda stage: None)
except BadRequest as error:
    print(json.dumps(str(error)))
"""


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"{}")


@pytest.mark.parametrize(
    ("name", "absent", "extra"),
    [
        ("net.pt", "torch", "torch"),
        ("net.keras", "keras", "keras"),
        ("net.keras", "torch", "keras"),
        ("net.h5", "h5py", "keras"),
        ("saved", "tensorflow", "tensorflow"),
        ("saved", "tf2onnx", "tensorflow"),
        ("net.joblib", "skl2onnx", "sklearn"),
    ],
)
def test_a_framework_that_is_not_installed_is_named_with_its_extra(name, absent, extra, tmp_path):
    """What the worker process does, in a process that cannot import the package."""
    path = tmp_path / name
    if name == "net.pt":
        archive(path, "net/code/net.py", "net/constants.pkl", "net/data.pkl")
    elif name == "net.keras":
        archive(path, "config.json", "model.weights.h5")
    elif name == "saved":
        path.mkdir()
        (path / "saved_model.pb").touch()
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" if name == "net.h5" else b"\x80\x04N.")
    message = python(WITHOUT, path, tmp_path, absent)
    assert f"needs the package {absent}, which is not installed: pip install 'onnxserve[{extra}]'" in message


def test_inspect_takes_paths_of_any_kind(tmp_path):
    onnx.save(zoo.double(), tmp_path / "double.onnx")
    for path in (tmp_path / "double.onnx", str(tmp_path / "double.onnx")):
        assert onnxserve_converters.inspect(path)["free_axes"] == ["batch"]
