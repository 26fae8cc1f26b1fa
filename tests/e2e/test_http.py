"""The HTTP port, without a browser: health, metrics, the page's files, and predictions by JSON."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from waiting import until

from onnxserve_server import app as wiring
from onnxserve_server.edge.status import CODES
from onnxserve_server.web import predict

ROOT = Path(__file__).parent.parent.parent
MANY = "batching: {max_rows: 1000000, max_queue_rows: 2000000}\n"
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
    **{name: zoo.identity(dtype) for name, dtype in (FLOAT_TYPES | OTHER_TYPES).items()},
}


HEAD = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Http:
    """Asks the HTTP port of a server."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, body=None, method=None, **headers):
        """Return status, headers and body of an answer; underscores in names of headers are hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def status(self, path):
        """Return an answer's status; None where nobody listens."""
        try:
            return self.ask(path)[0]
        except OSError:
            return None

    def predict(self, body, **headers):
        """Return status and JSON of a prediction."""
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, told = self.ask("/api/predict", text, **{"Content_Type": "application/json"} | headers)
        return status, json.loads(told)

    def send(self, body):
        """Send a prediction and return its socket, from which nobody reads."""
        text = json.dumps(body).encode()
        sent = socket.create_connection(("127.0.0.1", self.port))
        sent.sendall(HEAD % len(text) + text)
        return sent

    def told(self):
        """Return /api/status."""
        return json.loads(self.ask("/api/status")[2])

    def answers(self, code):
        """Return how many predictions of this port were answered with a code."""
        points = self.told()["metrics"].get("onnxserve.requests", {}).get("points", [])
        ours = [point["attributes"] | point for point in points if point["attributes"]["rpc.method"].endswith("/Page")]
        return sum(point["value"] for point in ours if point["rpc.response.status_code"] == code)


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    configs = {"float32": MANY, "float64": "batching: {enabled: false}\n"}
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS, configs)
    with serving(root, http_port=0, inline_us=0) as running:
        yield running


@pytest.fixture
def http_port(server):
    yield Http(server.app.http_port)
    for name in MODELS:
        server.wait_for(name, lambda load: (load.queued_jobs, load.running_jobs) == (0, 0))


def port_of(log):
    """Return the HTTP port that a server's log tells."""
    return int(re.search(r"status page on http://127\.0\.0\.1:(\d+)", log.read_text())[1])


# Health and metrics


def test_it_is_not_ready_while_it_loads(serving, tmp_path, monkeypatch):
    may_load, load, ports = threading.Event(), wiring.load, []

    def load_when_allowed(*arguments, **more):
        assert may_load.wait(60)
        return load(*arguments, **more)

    class Noted(wiring.HttpServer):
        def start(self):
            super().start()
            ports.append(self.port)

    monkeypatch.setattr(wiring, "load", load_when_allowed)
    monkeypatch.setattr(wiring, "HttpServer", Noted)
    seen = []

    def look():
        asked = Http(until(lambda: ports, 60)[0])
        until(lambda: asked.status("/healthz") == 200)
        seen.append(asked.status("/readyz"))
        until(lambda: asked.told()["loads"])
        seen.append(asked.told()["loads"][0]["state"])
        may_load.set()

    looking = threading.Thread(target=look)
    looking.start()
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), http_port=0) as running:
        looking.join()
        assert seen == [503, "loading"]
        assert Http(running.app.http_port).status("/readyz") == 200


def test_it_is_alive_but_not_ready_while_it_drains(launch):
    process = launch({"double": zoo.double()}, "--http-port", 0, "--drain-delay", 60)
    asked = Http(port_of(process.log))
    assert asked.status("/readyz") == 200
    process.popen.send_signal(signal.SIGTERM)
    until(lambda: asked.status("/readyz") == 503)
    assert asked.status("/healthz") == 200


def test_metrics_are_those_of_the_requests(http_port):
    http_port.predict({"model": "double", "inputs": {"x": {"data": [[1, 2, 3]]}}})
    status, headers, body = http_port.ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(r'^onnxserve_requests_total\{.*model="double".*\} [1-9]', body.decode(), re.MULTILINE)


def test_without_telemetry_there_are_no_metrics_and_predictions_all_the_same(serving, tmp_path):
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), http_port=0, telemetry=False) as running:
        asked = Http(running.app.http_port)
        status, _, body = asked.ask("/metrics")
        assert (status, b"--no-telemetry" in body) == (404, True)
        assert asked.told()["metrics"] is None
        assert asked.predict({"model": "double", "inputs": {"x": {"data": [[1, 2, 3]]}}})[0] == 200


def test_a_port_in_use_ends_the_start_with_one_line(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = onnxserve("serve", "--models", root, "--port", 0, "--http-port", port, "--log-level", "error")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"onnxserve: 127.0.0.1:{port}: cannot listen there for HTTP: Address already in use; "
        "choose another --http-port, or -1 for none\n"
    )


def test_the_demo_can_be_kept_and_tells_where_the_page_is():
    demo = subprocess.Popen(
        [sys.executable, ROOT / "examples/demo.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"KEEP": "1"},
    )
    with demo:
        told = (re.search(r"Its status page: http://127\.0\.0\.1:(\d+)$", line) for line in demo.stdout)
        port = int(next(found for found in told if found)[1])
        asked = Http(port)
        assert b"<title>onnxserve</title>" in asked.ask("/")[2]
        assert [model["name"] for model in asked.told()["models"]] == ["digits", "names"]
        demo.send_signal(signal.SIGINT)
        assert demo.stdout.read().endswith("Ctrl-C stops it.\n\n")
    assert demo.returncode == 0
    assert asked.status("/healthz") is None


# The page's files


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript"), ("/icon.svg", "image/svg+xml")],
)
def test_files_say_what_they_are_and_load_nothing_from_elsewhere(http_port, path, kind):
    status, headers, body = http_port.ask(path)
    assert status == 200
    assert kind in headers["Content-Type"]
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert headers["Cache-Control"] == "no-cache"
    elsewhere = set(re.findall(rb"\bhttps?://[^\s\"'<>)]+", body))
    assert elsewhere <= {b"http://www.w3.org/2000/svg"}  # the name of a language, which nobody fetches
    status, _, body = http_port.ask(path, If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")


@pytest.mark.parametrize("path", ["/nothing", "/../app.py", "/%2e%2e/app.py", "/__init__.py"])
def test_no_other_file_is_given_out(http_port, path):
    assert http_port.status(path) == 404


# Predictions


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("float32", [[0.5, -1.25], [3, 1e30]]),
        ("float64", [[1e300, 0.1]]),
        ("float16", [[0.5, 65504]]),
        ("float32", [["NaN", "Infinity"], ["-Infinity", "1.5"]]),
        ("int64", [["9223372036854775807", "-9223372036854775808"]]),
        ("uint8", [[0, 255]]),
        ("uint64", [["18446744073709551615", 1]]),
        ("bool", [[True, False]]),
        ("string", [["été", "<script>"]]),
    ],
)
def test_values_come_back_as_they_were_sent(http_port, model, data):
    status, told = http_port.predict({"model": model, "inputs": {"x": {"data": data}}})
    assert status == 200, told
    (output,) = told["outputs"]
    assert (output["name"], output["data_type"], output["shape"]) == ("y", model, [len(data), 2])
    if "float" in model:
        np.testing.assert_array_equal(np.array(output["data"], model), np.array(data).astype(model).ravel())
    else:
        assert output["data"] == [element for row in data for element in row]


@pytest.mark.parametrize(("model", "value"), [("int64", 2**53 + 1), ("uint64", 2**64 - 1)])
def test_integers_are_read_as_they_were_written(http_port, model, value):
    _, told = http_port.predict({"model": model, "inputs": {"x": {"data": [[value, 4]]}}})
    assert told["outputs"][0]["data"] == [str(value), 4]


def test_a_flat_list_takes_its_shape_and_answers_name_what_answered(http_port):
    inputs = {"x": {"shape": [2, 3], "data": [1, 2, 3, 4, 5, 6], "data_type": "float32"}}
    status, told = http_port.predict({"model": "double", "version": "1", "request_id": "mine", "inputs": inputs})
    assert (status, told["model"], told["version"], told["request_id"]) == (200, "double", "1", "mine")
    assert told["outputs"][0]["data"] == [2, 4, 6, 8, 10, 12]
    assert told["receipt"].keys() == {
        "queue_us",
        "batch_wait_us",
        "compute_us",
        "batch_rows",
        "batch_requests",
        "provider",
    }
    assert told["receipt"]["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("rows", "given"), [(8192, "data"), (8193, "base64"), (524_288, "base64"), (524_289, "omitted")]
)
def test_large_outputs_are_base64_and_larger_ones_left_out(http_port, rows, given):
    sent = np.arange(2 * rows, dtype=np.float32)
    inputs = {"x": {"shape": [rows, 2], "base64": base64.b64encode(sent.tobytes()).decode()}}
    status, told = http_port.predict({"model": "float32", "inputs": inputs})
    assert status == 200, told
    (output,) = told["outputs"]
    assert output.keys() & {"data", "base64", "omitted"} == {given}
    if given == "base64":
        assert np.frombuffer(base64.b64decode(output["base64"]), np.float32).tolist() == sent.tolist()
    elif given == "data":
        assert output["data"] == sent.tolist()


def x(**fields):
    return {"model": "double", "inputs": {"x": fields}}


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ("{", "request", "no JSON"),
        ("[" * 100_000, "request", "no JSON"),
        ("[]", "request", "a JSON object"),
        ({"model": "double"}, "inputs", "an object of tensors by name"),
        ({"inputs": {}}, "model", "name of a model is required"),
        ({"model": 3, "inputs": {}}, "model", "must be a string"),
        ({"model": "double", "inputs": {}, "Inputs": 1}, "Inputs", "no such field"),
        ({"model": "double", "inputs": {}, "request_id": "x" * 129}, "request_id", "longer than 128"),
        ({"model": "double", "inputs": {}}, "inputs", "'x' missing"),
        ({"model": "double", "inputs": {"z": {"data": [1]}}}, "inputs.z", "no input 'z'; it has 'x'"),
        ({"model": "double", "inputs": {"x": [1, 2, 3]}}, "inputs.x", "must be an object"),
        (x(data=[[1, 2, 3]], dtype="float32"), "inputs.x.dtype", "no such field"),
        (x(data=[[1, 2, 3]], data_type="float"), "inputs.x.data_type", "one of float32"),
        (x(data=[[1, 2, 3]], data_type="int64"), "inputs.x.data_type", "is float32, not int64"),
        (x(), "inputs.x", "one of data and base64"),
        (x(data=[[1, 2, 3]], base64=""), "inputs.x", "one of data and base64"),
        (x(data=[[1, 2], [3]]), "inputs.x.data", "equal length"),
        (x(data=[[1, 2, "three"]]), "inputs.x.data", "a number of float32"),
        (x(data=[[1, 2, None]]), "inputs.x.data", "a number of float32"),
        (x(data=[[True, 2, 3]]), "inputs.x.data", "a number of float32"),
        (x(data=[[1, 2, 1e39]]), "inputs.x.data", "a number of float32"),
        (x(data=[[1, 2, 3, 4]]), "inputs.x.shape", "[batch, 3], not [1, 4]"),
        (x(data=[1, 2, 3], shape=[2, 3]), "inputs.x.shape", "3 elements do not fill [2, 3]"),
        (x(data=[[1, 2, 3]], shape=[3, 1]), "inputs.x.shape", "is not the shape of data"),
        (x(data=[1, 2, 3], shape=[True, 3]), "inputs.x.shape", "a list of sizes"),
        (x(data=[1, 2, 3], shape=[-1, 3]), "inputs.x.shape", "a list of sizes"),
        (x(base64="AAAA"), "inputs.x.shape", "required beside base64"),
        (x(base64="A", shape=[1, 3]), "inputs.x.base64", "cannot be decoded"),
        (x(base64="AAAA", shape=[1, 3]), "inputs.x.data", "3 bytes do not fill [1, 3]"),
        ({"model": "int64", "inputs": {"x": {"data": [[1, 1.5]]}}}, "inputs.x.data", "a number of int64"),
        ({"model": "int64", "inputs": {"x": {"data": [[1, 2**63]]}}}, "inputs.x.data", "number of int64"),
        ({"model": "uint8", "inputs": {"x": {"data": [[0, None]]}}}, "inputs.x.data", "number of uint8"),
        ({"model": "uint8", "inputs": {"x": {"data": [[0, 256]]}}}, "inputs.x.data", "256 out of bounds for uint8"),
        ({"model": "bool", "inputs": {"x": {"data": [[0, 1]]}}}, "inputs.x.data", "true or false"),
        ({"model": "string", "inputs": {"x": {"data": [["a", 1]]}}}, "inputs.x.data", "must be a string"),
        ({"model": "string", "inputs": {"x": {"data": [["a", "\ud800"]]}}}, "inputs.x.data", "is no text"),
    ],
)
def test_what_is_wrong_is_named_at_its_field(http_port, body, field, told):
    status, error = http_port.predict(body)
    assert (status, error["code"], error["reason"]) == (400, "INVALID_ARGUMENT", "INVALID_REQUEST")
    (violation,) = error["violations"]
    assert violation["field"] == field
    assert told in violation["description"]


def test_all_inputs_at_fault_are_named(http_port):
    _, error = http_port.predict({"model": "pair", "inputs": {"b": {"data": [[1, 2]]}, "a": {"data": [[1]]}}})
    assert [violation["field"] for violation in error["violations"]] == ["inputs.b.shape", "inputs.a.shape"]


@pytest.mark.parametrize(
    ("body", "status", "code", "reason"),
    [
        ({"model": "nothing", "inputs": {}}, 404, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"model": "double", "version": "7", "inputs": {}}, 404, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"model": "gather", "inputs": {"id": {"data": [[99]]}}}, 500, "INTERNAL", "MODEL_RUN_FAILED"),
        (b" " * (predict.MAX_BODY + 1), 413, "RESOURCE_EXHAUSTED", "TOO_LARGE"),
    ],
    ids=["model", "version", "run", "size"],
)
def test_errors_have_their_code_and_reason(http_port, body, status, code, reason):
    got, error = http_port.predict(body)
    assert (got, error["code"], error["reason"], error["violations"]) == (status, code, reason, [])
    assert error["message"]


def test_codes_are_those_of_the_calls_by_grpc():
    assert {error: predict.STATUSES[error][0] for error in CODES} == {error: code.name for error, code in CODES.items()}


def test_predictions_are_counted_and_the_slow_ones_shown(http_port):
    before = http_port.answers("OK"), http_port.answers("INVALID_ARGUMENT")
    sent = {"model": "slow", "request_id": "slowest", "inputs": {"x": {"data": [[200]]}}}
    assert http_port.predict(sent)[0] == 200
    assert http_port.predict(x(data=[[1]]))[0] == 400
    assert (http_port.answers("OK"), http_port.answers("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
    slow = next(one for one in http_port.told()["slow"] if one["request_id"] == "slowest")
    assert (slow["model"], slow["version"], slow["code"]) == ("slow", "1", "OK")
    assert slow["receipt"]["compute_us"] / 1e6 < slow["seconds"]


ENDLESS = {"model": "slow", "inputs": {"x": {"data": [[1e6]]}}}


def test_a_caller_that_leaves_takes_its_run_along(server, http_port):
    before = http_port.answers("CANCELLED")
    with http_port.send(ENDLESS):
        server.wait_for("slow", lambda load: load.running_jobs == 1)
    server.wait_for("slow", lambda load: load.running_jobs == 0)
    until(lambda: http_port.answers("CANCELLED") == before + 1)


def test_what_takes_too_long_is_ended(server, http_port, monkeypatch):
    monkeypatch.setattr(predict, "TIMEOUT", 0.3)
    status, error = http_port.predict(ENDLESS)
    assert (status, error["code"]) == (504, "DEADLINE_EXCEEDED")
    server.wait_for("slow", lambda load: load.running_jobs == 0)


def test_a_body_that_does_not_come_is_not_waited_for(http_port, monkeypatch):
    monkeypatch.setattr(predict, "TIMEOUT", 0.3)
    with socket.create_connection(("127.0.0.1", http_port.port), timeout=30) as sent:
        sent.sendall(HEAD % 9 + b"{")
        assert sent.recv(100).startswith(b"HTTP/1.1 504 ")


def test_a_few_predictions_at_a_time_are_taken(server, http_port):
    most = predict.MOST_AT_ONCE
    with contextlib.ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(http_port.send(ENDLESS))
        server.wait_for("slow", lambda load: load.running_jobs + load.queued_jobs == most)
        status, error = http_port.predict(x(data=[[1, 2, 3]]))
        assert (status, error["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert http_port.status("/readyz") == 200
    server.wait_for("slow", lambda load: load.running_jobs + load.queued_jobs == 0)
    until(lambda: http_port.predict(x(data=[[1, 2, 3]]))[0] == 200)


# Who may ask


SAME = {"Origin": "http://localhost:1", "Host": "localhost:1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        (SAME, 200),  # a browser at an address that it does not trust
        ({"Origin": "http://[::1]:1", "Host": "[::1]:1"}, 200),
        (SAME | {"Sec_Fetch_Site": "same-origin"}, 200),
        (
            {"Origin": "https://models.example", "Host": "127.0.0.1:1", "Sec_Fetch_Site": "same-origin"},
            200,
        ),  # by a proxy
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        ({"Content_Type": "text/plain"}, 403),  # what a form of another site could send
        ({"Content_Type": "application/x-www-form-urlencoded"}, 403),
        (SAME | {"Sec_Fetch_Site": "cross-site"}, 403),
        (SAME | {"Sec_Fetch_Site": "same-site"}, 403),  # another port of localhost
        (SAME | {"Origin": "http://evil.example"}, 403),
        (SAME | {"Origin": "http://localhost:2"}, 403),
        (SAME | {"Origin": "null"}, 403),
        ({"Origin": "http://evil.example:1", "Host": "evil.example:1"}, 403),  # its name now leads here
        ({"Host": "evil.example:1"}, 403),
    ],
)
def test_no_page_of_another_site_can_have_a_model_run(http_port, headers, status):
    before = http_port.answers("OK")
    got, told = http_port.predict(x(data=[[1, 2, 3]]), **headers)
    assert got == status, told
    if status != 200:
        assert (told["code"], told["reason"]) == ("PERMISSION_DENIED", "OTHER_ORIGIN")
    assert http_port.answers("OK") == before + (status == 200)


@pytest.mark.parametrize("headers", [{"Host": "evil.example:1"}, {"Sec_Fetch_Site": "cross-site"}])
def test_no_page_of_another_site_can_read_the_status(http_port, headers):
    status, _, body = http_port.ask("/api/status", **headers)
    assert (status, json.loads(body)["reason"]) == (403, "OTHER_ORIGIN")


def test_nobody_is_granted_what_browsers_ask_for_first(http_port):
    status, headers, _ = http_port.ask(
        "/api/predict",
        method="OPTIONS",
        Origin="http://evil.example",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type",
    )
    assert status == 405
    assert not [name for name in headers if name.lower().startswith("access-control")]
