"""Predictions by JSON: values, errors, bounds."""

import base64
import contextlib
import json

import numpy as np
import onnx
import pytest

from onnxserve_server.errors import Code, ServeError
from onnxserve_server.web import predict, uploads
from onnxserve_server.web.errors import status_of
from support import zoo
from support.asking import HEAD, double
from support.waiting import until

FLOAT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "float16": onnx.TensorProto.FLOAT16,
}
OTHER_TYPES = {
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "uint64": onnx.TensorProto.UINT64,
    "bool": onnx.TensorProto.BOOL,
    "string": onnx.TensorProto.STRING,
}
MODELS = {
    "double": zoo.double(),
    "pair": zoo.two_by_two(),
    "slow": zoo.slow(),
    "gather": zoo.gather(),
    "parse": zoo.parse(),
    **{name: zoo.identity(dtype) for name, dtype in (FLOAT_TYPES | OTHER_TYPES).items()},
}
CONFIGS = {
    "float32": "batching: {max_rows: 1000000, max_queue_rows: 2000000}\n",
    "float64": "batching: {enabled: false}\n",
}


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("float32", [[0.5, -1.25], [3, 1e30]]),
        ("float64", [[1e300, 0.1]]),
        ("float16", [[0.5, 65504]]),
        ("float32", [["NaN", "Infinity"], ["-Infinity", "1.5"]]),
        ("float32", [["-1.5e+2", "0"], ["1E3", "-0.25"]]),
        ("int64", [["9223372036854775807", "-9223372036854775808"]]),
        ("uint8", [[0, 255]]),
        ("uint64", [["18446744073709551615", 1]]),
        ("bool", [[True, False]]),
        ("string", [["été", "<script>"]]),
    ],
)
def test_values_come_back_as_they_were_sent(http_port, model, data):
    status, reply = http_port.predict({"model": model, "inputs": {"x": {"data": data}}})
    assert status == 200, reply
    (output,) = reply["outputs"]
    assert (output["name"], output["data_type"], output["shape"]) == ("y", model, [len(data), 2])
    if "float" in model:
        np.testing.assert_array_equal(np.array(output["data"], model), np.array(data).astype(model).ravel())
    else:
        assert output["data"] == [element for row in data for element in row]


@pytest.mark.parametrize(("model", "value"), [("int64", 2**53 + 1), ("uint64", 2**64 - 1)])
def test_integers_are_read_as_they_were_written(http_port, model, value):
    _, reply = http_port.predict({"model": model, "inputs": {"x": {"data": [[value, 4]]}}})
    assert reply["outputs"][0]["data"] == [str(value), 4]


def test_a_flat_list_takes_its_shape_and_answers_name_what_answered(http_port):
    inputs = {"x": {"shape": [2, 3], "data": [1, 2, 3, 4, 5, 6], "data_type": "float32"}}
    status, reply = http_port.predict({"model": "double", "version": "1", "request_id": "mine", "inputs": inputs})
    assert (status, reply["model"], reply["version"], reply["request_id"]) == (200, "double", "1", "mine")
    assert reply["outputs"][0]["data"] == [2, 4, 6, 8, 10, 12]
    assert reply["receipt"].keys() == {
        "queue_us",
        "batch_wait_us",
        "compute_us",
        "batch_rows",
        "batch_requests",
        "provider",
    }
    assert reply["receipt"]["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("rows", "given"), [(8192, "data"), (8193, "base64"), (524_288, "base64"), (524_289, "omitted")]
)
def test_large_outputs_are_base64_and_larger_ones_left_out(http_port, rows, given):
    sent = np.arange(2 * rows, dtype=np.float32)
    inputs = {"x": {"shape": [rows, 2], "base64": base64.b64encode(sent.tobytes()).decode()}}
    status, reply = http_port.predict({"model": "float32", "inputs": inputs})
    assert status == 200, reply
    (output,) = reply["outputs"]
    assert output.keys() & {"data", "base64", "omitted"} == {given}
    if given == "base64":
        assert np.frombuffer(base64.b64decode(output["base64"]), np.float32).tolist() == sent.tolist()
    elif given == "data":
        assert output["data"] == sent.tolist()


def of(model, value):
    """A prediction with 1 and such a value."""
    return {"model": model, "inputs": {"x": {"data": [[1, value]]}}}


def nested(depth):
    """A list in a list, and so on, with one number."""
    return 1 if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ("{", "request", "not valid JSON"),
        ("[" * 100_000, "request", "not valid JSON"),
        ("[]", "request", "a JSON object"),
        ({"model": "double"}, "inputs", "must be an object of tensors by input name"),
        ({"inputs": {}}, "model", "name of a model is required"),
        ({"model": 3, "inputs": {}}, "model", "must be a string"),
        (
            {"model": "double", "inputs": {}, "Inputs": 1},
            "Inputs",
            "unknown field; the fields are model, version, inputs, request_id",
        ),
        ({"model": "double", "inputs": {}, "request_id": "x" * 129}, "request_id", "longer than 128"),
        ({"model": "double", "inputs": {}}, "inputs", "'x' missing"),
        (
            {"model": "double", "inputs": {"z": {"data": [1]}}},
            "inputs.z",
            "unknown input 'z'; the model's inputs are 'x'",
        ),
        ({"model": "double", "inputs": {"x": [1, 2, 3]}}, "inputs.x", "must be an object"),
        (double(data=[[1, 2, 3]], dtype="float32"), "inputs.x.dtype", "unknown field"),
        (double(data=[[1, 2, 3]], data_type="float"), "inputs.x.data_type", "one of float32"),
        (double(data=[[1, 2, 3]], data_type="int64"), "inputs.x.data_type", "is float32, not int64"),
        (double(), "inputs.x", "exactly one of data and base64"),
        (double(data=[[1, 2, 3]], base64=""), "inputs.x", "exactly one of data and base64"),
        (double(data=[[1, 2], [3]]), "inputs.x.data", "equal length"),
        (double(data=[[1, 2, "three"]]), "inputs.x.data", "a number of type float32"),
        (double(data=[[1, 2, None]]), "inputs.x.data", "a number of type float32"),
        (double(data=[[True, 2, 3]]), "inputs.x.data", "a number of type float32"),
        (double(data=[[1, 2, 1e39]]), "inputs.x.data", "a number of type float32"),
        (double(data=[[1, 2, 3, 4]]), "inputs.x.shape", "[batch, 3], not [1, 4]"),
        (double(data=[1, 2, 3], shape=[2, 3]), "inputs.x.shape", "3 elements do not fill [2, 3]"),
        (double(data=[[1, 2, 3]], shape=[3, 1]), "inputs.x.shape", "is not the shape of data"),
        (double(data=[1, 2, 3], shape=[True, 3]), "inputs.x.shape", "a list of sizes"),
        (double(data=[1, 2, 3], shape=[-1, 3]), "inputs.x.shape", "a list of sizes"),
        (double(base64="AAAA"), "inputs.x.shape", "required with base64"),
        (double(base64="A", shape=[1, 3]), "inputs.x.base64", "not valid base64"),
        (double(base64="AAAA", shape=[1, 3]), "inputs.x.data", "3 bytes do not fill [1, 3]"),
        ({"model": "int64", "inputs": {"x": {"data": [[1, 1.5]]}}}, "inputs.x.data", "a number of type int64"),
        ({"model": "int64", "inputs": {"x": {"data": [[1, 2**63]]}}}, "inputs.x.data", "number of type int64"),
        (of("int64", "1_000"), "inputs.x.data", "'1_000' is not a valid number"),
        (of("int64", " 5 "), "inputs.x.data", "' 5 ' is not a valid number"),
        (of("int64", "+5"), "inputs.x.data", "'+5' is not a valid number"),
        (of("int64", "05"), "inputs.x.data", "'05' is not a valid number"),
        (of("int64", "1.0"), "inputs.x.data", "'1.0' is not a valid number"),
        (of("int64", ""), "inputs.x.data", "'' is not a valid number"),
        (of("int64", "\N{ARABIC-INDIC DIGIT THREE}"), "inputs.x.data", "is not a valid number"),
        (of("int64", "9" * 5000), "inputs.x.data", "a number of type int64"),
        (of("float32", "1_0.5"), "inputs.x.data", "'1_0.5' is not a valid number"),
        (of("float32", " 1"), "inputs.x.data", "' 1' is not a valid number"),
        (of("float32", "nan"), "inputs.x.data", "'nan' is not a valid number"),
        (of("float32", "inf"), "inputs.x.data", "'inf' is not a valid number"),
        (of("float32", "1e39"), "inputs.x.data", "a number of type float32"),
        (of("float64", "1e400"), "inputs.x.data", "a value is too large"),
        (double(data=[[1, 2, None, 4]]), "inputs.x.data", "number of type float32; element [0, 2] is not"),
        (double(data=[[1, 1e300]]), "inputs.x.data", "number of type float32: a value is too large"),
        (of("int64", 10**20), "inputs.x.data", "100000000000000000000 out of bounds for int64"),
        ('{"model": "float64", "inputs": {"x": {"data": [[1, 1e400]]}}}', "inputs.x.data", "a value is too large"),
        ('{"model": "float64", "inputs": {"x": {"data": [[1, NaN]]}}}', "request", 'write "NaN"'),
        ('{"model": "float64", "inputs": {"x": {"data": [[1, -Infinity]]}}}', "request", 'write "-Infinity"'),
        (double(data=nested(33)), "inputs.x.data", "nested at most 32 deep"),
        (double(data=nested(500)), "inputs.x.data", "nested at most 32 deep"),
        ({"model": "uint8", "inputs": {"x": {"data": [[0, None]]}}}, "inputs.x.data", "number of type uint8"),
        ({"model": "uint8", "inputs": {"x": {"data": [[0, 256]]}}}, "inputs.x.data", "256 out of bounds for uint8"),
        ({"model": "bool", "inputs": {"x": {"data": [[0, 1]]}}}, "inputs.x.data", "true or false"),
        ({"model": "string", "inputs": {"x": {"data": [["a", 1]]}}}, "inputs.x.data", "must be a string"),
        ({"model": "string", "inputs": {"x": {"data": [["a", "\ud800"]]}}}, "inputs.x.data", "not valid Unicode"),
    ],
)
def test_what_is_wrong_is_named_at_its_field(http_port, body, field, text):
    status, error = http_port.predict(body)
    assert (status, error["code"], error["reason"]) == (400, "INVALID_ARGUMENT", "INVALID_REQUEST")
    (violation,) = error["violations"]
    assert violation["field"] == field
    assert text in violation["description"]


def test_all_inputs_at_fault_are_named(http_port):
    _, error = http_port.predict({"model": "pair", "inputs": {"b": {"data": [[1, 2]]}, "a": {"data": [[1]]}}})
    assert [violation["field"] for violation in error["violations"]] == ["inputs.b.shape", "inputs.a.shape"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "a\ud800", "inputs": {}}, "model"),
        ({"model": "double", "version": "\udfff", "inputs": {}}, "version"),
        ({"model": "double", "request_id": "\ud800", "inputs": {}}, "request_id"),
        ({"model": "double", "inputs": {}, "\ud800": 1}, "\ud800"),
        ({"model": "double", "inputs": {"\ud800": {"data": [1]}}}, "inputs.\ud800"),
        (double(data=[[1, 2, 3]], **{"\ud800": 1}), "inputs.x.\ud800"),
        (double(data=[[1, 2, "\ud800"]]), "inputs.x.data"),
    ],
)
def test_text_that_is_not_unicode_is_refused_and_sent_back_all_the_same(http_port, body, field):
    status, error = http_port.predict(body)
    assert status == 400, error
    assert [violation["field"] for violation in error["violations"]] == [field]


def test_values_of_a_request_are_bounded_before_they_are_parsed(http_port):
    limit = predict._MAX_VALUES
    body = b'{"model": "float32", "inputs": {"x": {"shape": [%d, 2], "data": [%s]}}}'

    def of_values(rows):
        return body % (rows, b",".join([b"7"] * 2 * rows))

    rows = (limit - of_values(1).count(b"{") - 4) // 2
    status, reply = http_port.predict(of_values(rows))
    assert status == 200, reply
    status, error = http_port.predict(of_values(rows + 4))
    assert (status, error["reason"]) == (413, "TOO_LARGE")
    assert "send base64" in error["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "reason"),
    [
        ({"model": "nothing", "inputs": {}}, 404, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"model": "double", "version": "7", "inputs": {}}, 404, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"model": "parse", "inputs": {"x": {"data": ["no number"]}}}, 500, "INTERNAL", "MODEL_RUN_FAILED"),
        (b" " * (uploads.MAX_BODY + 1), 413, "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    ],
    ids=["model", "version", "run", "size"],
)
def test_errors_have_their_code_and_reason(http_port, body, status, code, reason):
    got, error = http_port.predict(body)
    assert (got, error["code"], error["reason"], error["violations"]) == (status, code, reason, [])
    assert error["message"]


def test_values_that_the_model_cannot_compute_with_are_the_callers_fault(http_port):
    status, error = http_port.predict({"model": "gather", "inputs": {"id": {"data": [[99]]}}})
    assert (status, error["code"], error["reason"]) == (400, "INVALID_ARGUMENT", "INVALID_VALUES")
    assert "out of data bounds" in error["violations"][0]["description"]


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_every_code_has_a_status(code):
    error = ServeError("no")
    error.code = code
    assert 200 <= status_of(error) < 600


def test_predictions_are_counted_and_the_slow_ones_shown(http_port):
    before = http_port.answers("OK"), http_port.answers("INVALID_ARGUMENT")
    sent = {"model": "slow", "request_id": "slowest", "inputs": {"x": {"data": [[200]]}}}
    assert http_port.predict(sent)[0] == 200
    assert http_port.predict(double(data=[[1]]))[0] == 400
    assert (http_port.answers("OK"), http_port.answers("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
    slow = next(one for one in http_port.fetch_status()["slow"] if one["request_id"] == "slowest")
    assert (slow["model"], slow["version"], slow["code"]) == ("slow", "1", "OK")
    assert slow["receipt"]["compute_us"] / 1e6 < slow["seconds"]


ENDLESS = {"model": "slow", "inputs": {"x": {"data": [[1e6]]}}}


def test_a_caller_that_leaves_takes_its_run_along(http_server, http_port):
    before = http_port.answers("CANCELLED")
    with http_port.send(ENDLESS):
        http_server.wait_for("slow", lambda load: load.running_jobs == 1)
    http_server.wait_for("slow", lambda load: load.running_jobs == 0)
    until(lambda: http_port.answers("CANCELLED") == before + 1)


def test_what_takes_too_long_is_ended(http_server, http_port, monkeypatch):
    monkeypatch.setattr(uploads, "TIMEOUT", 0.3)
    status, error = http_port.predict(ENDLESS)
    assert (status, error["code"]) == (504, "DEADLINE_EXCEEDED")
    http_server.wait_for("slow", lambda load: load.running_jobs == 0)


def test_a_body_that_does_not_come_is_not_waited_for(http_port, monkeypatch):
    monkeypatch.setattr(uploads, "TIMEOUT", 0.3)
    with http_port.connect(HEAD % 9 + b"{") as sent:
        assert sent.recv(100).startswith(b"HTTP/1.1 504 ")


def test_a_few_predictions_at_a_time_are_taken(http_server, http_port):
    limit = predict.MAX_CONCURRENT
    with contextlib.ExitStack() as stack:
        for _ in range(limit):
            stack.enter_context(http_port.send(ENDLESS))
        http_server.wait_for("slow", lambda load: load.running_jobs + load.queued_jobs == limit)
        status, error = http_port.predict(double(data=[[1, 2, 3]]))
        assert (status, error["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert http_port.status("/readyz") == 200
    http_server.wait_for("slow", lambda load: load.running_jobs + load.queued_jobs == 0)
    until(lambda: http_port.predict(double(data=[[1, 2, 3]]))[0] == 200)


def test_a_request_without_a_content_type_gets_the_header_named(http_port):
    status, _, body = http_port.ask("/api/predict", json.dumps(double(data=[[1, 2, 3]])).encode())
    reply = json.loads(body)
    assert (status, reply["code"], reply["reason"]) == (415, "INVALID_ARGUMENT", "NOT_JSON")
    assert reply["message"] == "the Content-Type header must be application/json, but is missing"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_than_post_are_refused_with_the_right_one(http_port, method):
    status, headers, body = http_port.ask("/api/predict", method=method)
    reply = json.loads(body)
    assert (status, headers["Allow"], reply["code"], reply["reason"]) == (405, "POST", "UNIMPLEMENTED", "NOT_POST")
    assert reply["message"] == f"method {method} is not allowed; use POST"
