"""`onnxserve bench` against a server that misbehaves as the test wants."""

import json
import os
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from onnxserve._cli.app import app
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2

ONCE = ("--concurrency", "1", "--seconds", "0.1", "--warm-up", "0")
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
    batching=model_service_pb2.Batching(enabled=True, max_rows=32),
)


class Server:
    """Serves the model; its Predict answers, after `before(number)` for the requests from 0 on."""

    def __init__(self, serve):
        self.before = lambda number, context: None
        self.answered = 0
        self._lock = threading.Lock()
        model = model_service_pb2.GetModelResponse(model=MODEL).SerializeToString()
        self.address = serve(
            {
                "/onnxserve.v1.InferenceService/Predict": self._predict,
                "/onnxserve.v1.ModelService/GetModel": lambda *_: model,
            }
        )

    def _predict(self, request, context):
        with self._lock:
            number = self.answered
            self.answered += 1
        self.before(number, context)
        receipt = inference_service_pb2.Receipt(batch_rows=1, batch_requests=1)
        return inference_service_pb2.PredictResponse(receipt=receipt).SerializeToString()


@pytest.fixture
def server(serve):
    return Server(serve)


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Run `onnxserve bench animals` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        environment = {"ONNXSERVE_TARGET": server.address, "COLUMNS": "200"}
        return CliRunner().invoke(app, ["bench", "animals", *arguments], env=environment)

    return invoke


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--concurrency", "4", "--rate", "10"), "give only one of the two"),
        (("--concurrency", "4,x"), "expected numbers above 0, such as 1,4,16, not '4,x'"),
        (("--concurrency", "1.5"), "expected numbers above 0, such as 1,4,16, not '1.5'"),
        (("--concurrency", "0"), "expected numbers above 0, such as 1,4,16, not '0'"),
        (("--rate", "10,"), "expected numbers above 0, such as 1,4,16, not '10,'"),
        (("--rate", "inf"), "expected numbers above 0, such as 1,4,16, not 'inf'"),
        (("--size", "time"), "expected axis=size, such as time=16, not 'time'"),
        (("--size", "time=4"), "unknown axis; the free axes of made-up inputs are: none"),
        (("--rows", "3", "--input", "x=rows.npy"), "--rows 3: the arrays given with --input have 2 rows"),
        (("--input", "x=absent.npy"), "No such file"),
        (("--plot", "plot.pdf"), "the name must end with one of .svg, .html, .png"),
        (("--plot", "absent/plot.svg"), "absent is not a directory"),
        (("--json", "absent/figures.json"), "absent is not a directory"),
        (("--arrivals", "never"), "never"),
    ],
)
def test_a_mistake_of_use_ends_with_2_before_anything_is_sent(run, server, tmp_path, arguments, says):
    np.save(tmp_path / "rows.npy", np.zeros((2, 3), np.float32))
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert not done.stdout
    assert server.answered == 0


def test_without_matplotlib_a_png_is_refused_beforehand_and_its_extra_named(server, tmp_path):
    program = "import sys; sys.modules['matplotlib'] = None; from onnxserve.__main__ import main; main()"
    arguments = ("bench", "animals", "--target", server.address, "--plot", str(tmp_path / "plot.png"))
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert "PNG needs an extra: pip install 'onnxserve[cli,plot]'; .svg and .html do not" in done.stderr
    assert server.answered == 0


def test_a_load_of_which_all_fails_is_reported_and_ends_with_1(run, server):
    def refuse_all_but_the_first(number, context):
        if number:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")

    server.before = refuse_all_but_the_first
    done = run(*ONCE, "--json", "figures.json")
    assert done.exit_code == 1
    failed = server.answered - 1
    assert (
        f"note: 1 caller: {failed:,} of {failed:,} requests failed with RESOURCE_EXHAUSTED: the queue is full"
        in done.stdout
    )
    assert "onnxserve: no request was answered" in done.stderr
    assert "Best" not in done.stdout


def test_a_load_of_which_some_fails_is_reported_and_ends_with_0(run, server):
    def refuse_every_second(number, context):
        if number % 2:
            context.abort(grpc.StatusCode.INTERNAL, "it broke")

    server.before = refuse_every_second
    done = run("--rate", "100", "--seconds", "0.2", "--warm-up", "0", "--json", "-")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    (load,) = data["loads"]
    assert load["errors"] == {"INTERNAL": 10}
    assert load["succeeded"] == 10
    assert data["best"] is None
    assert any("10 of 20 requests failed with INTERNAL: it broke" in caution for caution in data["cautions"])


def test_a_refusal_of_made_up_values_is_reported_with_its_cure_and_nothing_is_measured(run, server):
    server.before = lambda _, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x must be above 2")
    done = run(*ONCE)
    assert (done.exit_code, done.stdout, server.answered) == (1, "", 1)
    assert done.stderr == (
        "onnxserve: x must be above 2\nThe values of x were made up; give real ones: --input x=FILE\n"
    )


def test_a_refusal_of_given_values_is_reported_as_it_is(run, server, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    server.before = lambda _, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x must be above 2")
    done = run(*ONCE, "--input", "x=x.npy")
    assert (done.exit_code, done.stderr) == (1, "onnxserve: x must be above 2\n")


def test_a_limit_that_no_load_keeps_is_reported(run):
    done = run(*ONCE, "--limit-ms", "0.000001")
    assert done.exit_code == 0
    assert "No load kept its p99 within 1e-06 ms" in done.stdout
    assert "Best" not in done.stdout


def test_a_server_that_cannot_be_reached_ends_with_1(run):
    done = run("--target", "unix:/nonexistent/socket")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("onnxserve: no server answers at unix:/nonexistent/socket")


def test_a_file_that_cannot_be_written_costs_no_figures(run, tmp_path):
    (tmp_path / "figures.json").mkdir()
    done = run(*ONCE, "--json", "figures.json")
    assert done.exit_code == 1
    assert "Best of these: 1 caller" in done.stdout
    assert "figures.json" in done.stderr


@pytest.mark.parametrize("load", [("--concurrency", "2,3"), ("--rate", "200,300")], ids=["concurrency", "rate"])
def test_ctrl_c_ends_the_sweep_and_prints_what_was_measured(server, tmp_path, load):
    figures = tmp_path / "figures.json"
    enough = threading.Event()
    server.before = lambda number, _: enough.set() if number == 100 else None
    arguments = ("bench", "animals", "--target", server.address, *load, "--seconds", "100", "--warm-up", "0")
    popen = subprocess.Popen(
        [sys.executable, "-m", "onnxserve", *arguments, "--json", str(figures)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert enough.wait(60)
        popen.send_signal(signal.SIGINT)
        stdout, stderr = popen.communicate(timeout=60)
    finally:
        popen.kill()
    assert popen.returncode == 130, stderr
    assert "Traceback" not in stderr
    data = json.loads(figures.read_text())
    (measured,) = data["loads"]
    assert data["interrupted"]
    assert not measured["complete"]
    assert 0 < measured["succeeded"] < server.answered
    assert measured["errors"] == {}
    assert "interrupted; the figures cover the time until then" in stdout
