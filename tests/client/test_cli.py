import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from onnxserve import TensorSpec
from onnxserve._cli.app import app
from onnxserve._inputs import InputError, read_inputs
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2

MODEL = model_service_pb2.Model(
    name="animals",
    version="3",
    state=model_service_pb2.MODEL_STATE_READY,
    inputs=[
        tensor_pb2.TensorSpec(
            name="x",
            data_type=tensor_pb2.DATA_TYPE_FLOAT,
            shape=[tensor_pb2.Dimension(size=-1, name="batch"), tensor_pb2.Dimension(size=3)],
        )
    ],
    outputs=[tensor_pb2.TensorSpec(name="x", data_type=tensor_pb2.DATA_TYPE_FLOAT, labels=["cat", "dog", "owl"])],
    batching=model_service_pb2.Batching(enabled=True, max_rows=32),
    runtime=model_service_pb2.Runtime(providers=["CPUExecutionProvider"]),
)


def specs(**dtypes):
    return [TensorSpec(name=name, dtype=dtype, shape=(), labels=()) for name, dtype in dtypes.items()]


@pytest.fixture
def run(serve):
    """Run a command against a server whose one model answers with its inputs, and refuses all but float32."""

    def predict(request, context):
        import grpc
        from google.rpc import error_details_pb2, status_pb2
        from grpc_status import rpc_status

        read = inference_service_pb2.PredictRequest.FromString(request)
        if read.inputs[0].data_type != tensor_pb2.DATA_TYPE_FLOAT:
            status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="bad [request]")
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field="inputs[0].data_type", description="float64, the model takes float32")
            status.details.add().Pack(bad)
            context.abort_with_status(rpc_status.to_status(status))
        return inference_service_pb2.PredictResponse(
            model="animals",
            version="3",
            request_id=read.request_id,
            outputs=read.inputs,
            receipt=inference_service_pb2.Receipt(queue_us=11, batch_rows=2, provider="CPUExecutionProvider"),
        ).SerializeToString()

    target = serve(
        {
            "/onnxserve.v1.InferenceService/Predict": predict,
            "/onnxserve.v1.ModelService/GetModel": lambda *_: model_service_pb2.GetModelResponse(
                model=MODEL
            ).SerializeToString(),
            "/onnxserve.v1.ModelService/ListModels": lambda *_: model_service_pb2.ListModelsResponse(
                models=[MODEL]
            ).SerializeToString(),
        }
    )

    def invoke(*arguments, stdin=None):
        return CliRunner().invoke(app, arguments, input=stdin, env={"ONNXSERVE_TARGET": target, "COLUMNS": "200"})

    return invoke


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of inputs, as the current one."""
    monkeypatch.chdir(tmp_path)
    rows = np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32)
    np.save("rows.npy", rows)
    np.save("wrong.npy", rows.astype(np.float64))
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("one.npz", whatever=rows)
    np.savez("two.npz", x=rows, y=rows * 2)
    (tmp_path / "rows.json").write_text("[[0.1, 0.7, 0.2], [3, 2, 1]]")
    (tmp_path / "broken.json").write_text("[1, ")
    (tmp_path / "rows.csv").write_text("1,2")
    return rows


@pytest.mark.parametrize("file", ["rows.npy", "one.npz", "two.npz", "two.npz:x", "one.npz:whatever", "rows.json"])
def test_a_file_of_each_kind_is_read(files, file):
    (array,) = read_inputs([f"x={file}"], specs(x="float32")).values()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, files)


@pytest.mark.parametrize(
    ("batching", "lines"),
    [
        ({"enabled": True, "max_rows": 32}, ["batches of up to 32 rows"]),
        (
            {"enabled": True, "max_rows": 32, "rows": {"rows": "ROWS_INDEPENDENT", "reason": "no row changed"}},
            ["batches of up to 32 rows", "rows independent (proved): no row changed"],
        ),
        (
            {"enabled": True, "max_rows": 1, "rows": {"rows": "ROWS_UNKNOWN", "reason": "who knows", "node": "odd"}},
            ["batches of up to 1 rows", "rows unknown because of node odd: who knows"],
        ),
        (
            {
                "reason": "its rows meet at node sum: they add up",
                "rows": {"rows": "ROWS_MEET", "reason": "they add up"},
            },
            ["one request at a time: its rows meet at node sum: they add up"],
        ),
        (
            {"reason": "model.yaml says so", "rows": {"rows": "ROWS_DEPENDENT", "reason": "row 0 changes"}},
            ["one request at a time: model.yaml says so", "rows dependent: row 0 changes"],
        ),
    ],
)
def test_models_shows_whether_rows_can_change_each_other(run, monkeypatch, batching, lines):
    model = model_service_pb2.Model()
    model.CopyFrom(MODEL)
    model.batching.CopyFrom(model_service_pb2.Batching(**batching))
    monkeypatch.setitem(globals(), "MODEL", model)
    assert [line.strip() for line in run("models").stdout.splitlines()][3:] == lines


def test_json_itself_is_read(files):
    (array,) = read_inputs(["x=[[0.1, 0.7, 0.2], [3, 2, 1]]"], specs(x="float32")).values()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, files)


def test_a_key_picks_the_array_of_an_archive(files):
    np.testing.assert_array_equal(read_inputs(["x=two.npz:y"], [])["x"], files * 2)


def test_an_array_from_a_file_keeps_its_dtype(files):
    assert read_inputs(["x=wrong.npy"], specs(x="float32"))["x"].dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("uint8", "[1, 255]", np.array([1, 255], np.uint8)),
        ("float16", "[1, 0.5]", np.array([1, 0.5], np.float16)),
        ("bfloat16", "2.5", np.array(2.5, ml_dtypes.bfloat16)),
        ("float8_e5m2", "[2]", np.array([2], ml_dtypes.float8_e5m2)),
        ("bool", "[true, false]", np.array([True, False])),
        ("string", '[["a"], ["ä"]]', np.array([["a"], ["ä"]], dtype=object)),
        ("int64", "[[]]", np.zeros((1, 0), np.int64)),
    ],
)
def test_json_becomes_the_dtype_of_the_models_input(tmp_path, dtype, text, value):
    (tmp_path / "x.json").write_text(text)
    array = read_inputs([f"x={tmp_path / 'x.json'}"], specs(x=dtype))["x"]
    assert (array.dtype, array.shape) == (value.dtype, value.shape)
    assert array.tolist() == value.tolist()


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("uint8", "[256]"),
        ("uint8", "[-1]"),
        ("int64", "[1.5]"),
        ("float32", '["1"]'),
        ("float32", "[null]"),
        ("bool", "[1]"),
        ("string", "[1]"),
        ("float32", "[[1], [1, 2]]"),
    ],
)
def test_json_values_that_the_dtype_cannot_hold_are_refused(tmp_path, dtype, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        read_inputs([f"x={tmp_path / 'x.json'}"], specs(x=dtype))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("rows.npy", "expected name=file, not 'rows.npy'"),
        ("x=rows.csv", "expected a .npy, .npz or .json file"),
        ("x=two.npz:z", "unknown array 'z'; the arrays of the file are x, y"),
        ("other=two.npz", "unknown array 'other'; the arrays of the file are x, y"),
        ("x=broken.json", "x=broken.json: not valid JSON: "),
        ("x=[[1, 2], [3]]", "lists of the same depth must have the same length"),
        ("x=absent.npy", "x=absent.npy: cannot be read: No such file or directory"),
        ("x=[1, ", "x=[1, : "),
        ("other=rows.json", "unknown input 'other'; the model's inputs are x"),
        ("x=pickled.npy", "allow_pickle"),
    ],
)
def test_an_input_that_cannot_be_read_ends_with_2_and_says_why(files, run, argument, says):
    done = run("predict", "animals", "--input", argument)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert not done.stdout


@pytest.mark.parametrize("file", ["rows.npy", "rows.json"])
def test_stdin_is_npy_or_json(files, run, tmp_path, file):
    done = run("predict", "animals", "--input", "x=-", "--json", stdin=(tmp_path / file).read_bytes())
    assert json.loads(done.stdout)["outputs"]["x"]["data"] == files.tolist()


def test_predict_prints_outputs_their_best_labels_and_the_receipt(files, run):
    done = run("predict", "animals", "--input", "x=rows.npy")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "x: float32[2, 3]"
    assert "  row 0: dog 0.7, owl 0.2, cat 0.1" in lines
    assert "  row 1: cat 3, dog 2, owl 1" in lines
    assert lines[-1].startswith("queue 11 µs")
    assert lines[-1].endswith("batch of 2 rows from 0 requests on CPUExecutionProvider")


def test_predict_as_json_is_all_of_the_answer_and_alone_on_stdout(files, run):
    done = run("predict", "animals", "--input", "x=rows.npy", "--json")
    answer = json.loads(done.stdout)
    assert answer.pop("request_id")
    assert answer == {
        "model": "animals",
        "version": "3",
        "outputs": {"x": {"dtype": "float32", "shape": [2, 3], "data": files.tolist()}},
        "receipt": {
            "queue_us": 11,
            "batch_wait_us": 0,
            "compute_us": 0,
            "batch_rows": 2,
            "batch_requests": 0,
            "provider": "CPUExecutionProvider",
        },
    }


def test_saved_outputs_are_read_back_by_numpy(files, run):
    assert run("predict", "animals", "--input", "x=rows.npy", "--save", "out.npz").exit_code == 0
    with np.load("out.npz") as saved:
        np.testing.assert_array_equal(saved["x"], files)


def test_the_servers_refusal_is_printed_in_lines_on_stderr_and_ends_with_1(files, run):
    done = run("predict", "animals", "--input", "x=wrong.npy")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "onnxserve: bad [request]\n  inputs[0].data_type: float64, the model takes float32\n"


def test_a_server_that_cannot_be_reached_ends_with_1(run):
    done = run("models", "--target", "unix:/nonexistent/socket")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("onnxserve: ")


def test_models_are_printed_with_names_dtypes_and_axes(run):
    done = run("models")
    assert done.exit_code == 0
    for text in ("animals", "READY", "float32[batch, 3]", "up to 32 rows", "CPU"):
        assert text in done.stdout


def test_models_as_json_is_what_the_client_knows(run):
    (model,) = json.loads(run("models", "--json").stdout)
    assert (model["name"], model["inputs"][0]["shape"]) == ("animals", ["batch", 3])


WITHOUT = """
import os, sys

sys.modules.update(dict.fromkeys(os.environ["ABSENT"].split()))  # None: not to be found
from onnxserve.__main__ import main
main()
"""


def command_without(packages, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ABSENT": packages},
    )


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_the_command_line_names_it(package):
    done = command_without(package, "models")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxserve: the command line needs an extra: pip install 'onnxserve[cli]'\n"


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_without_the_servers_packages_its_commands_name_their_extra(command):
    done = command_without("pydantic_settings grpc_health", command, "models/", "--port", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"onnxserve: {command} needs an extra: pip install 'onnxserve[cpu]' (or 'onnxserve[gpu]')\n")


def test_calling_a_server_does_not_import_one():
    program = "import sys; from onnxserve._cli.app import app; app(['models', '--help'], standalone_mode=False); "
    program += "assert not [name for name in sys.modules if name.startswith(('onnxserve_server', 'onnxruntime'))]"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_the_version_is_printed(run):
    assert run("--version").stdout.startswith("onnxserve 0.")
