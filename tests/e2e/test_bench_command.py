"""`onnxserve bench` against a real server."""

import json
import threading
from statistics import mean

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from onnxserve import TensorSpec
from onnxserve._bench import workload
from onnxserve._bench.generator import Generator
from onnxserve._bench.load import Callers, Rate
from onnxserve._cli.app import app
from support import zoo
from support.asking import Http

BRIEF = ("--seconds", "0.7", "--warm-up", "0.1")
SHORT = ("--seconds", "0.3", "--warm-up", "0.1")  # 15 requests at 50 a second


def picky():
    """y = table[id] with a table of one: any id but 0 makes the run fail."""
    nodes = [helper.make_node("Gather", ["table", "id"], ["y"])]
    inputs, outputs = [zoo.tensor("id", ["batch", 8], zoo.INT64)], [zoo.tensor("y", ["batch", 8])]
    return zoo.model(nodes, inputs, outputs, [zoo.constant("table", [5])])


MODELS = {
    "double": zoo.double(),
    "fixed": zoo.fixed(),
    "layered": zoo.layered(),
    "picky": picky(),
    "sequence": zoo.sequence(),
    "slow": zoo.slow(),
    "suffixed": zoo.suffixed(),
    "two": zoo.two_by_two(),
}
CONFIGS = {"layered": "batch_axis: {state: 1, stateN: 1}\nshared: [scale]", "double": "batching: {max_rows: 4}"}
SETTINGS = {"http_port": 0}


@pytest.fixture
def bench(server, tmp_path, monkeypatch):
    """Run `onnxserve bench` in a folder of its own; gives its JSON report too."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        done = CliRunner().invoke(
            app,
            ["bench", *arguments, "--json", "figures.json"],
            env={"ONNXSERVE_TARGET": server.address, "COLUMNS": "200"},
        )
        written = tmp_path / "figures.json"
        return done, json.loads(written.read_text()) if written.exists() else None

    return invoke


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_a_sweep_over_callers_measures_each(bench, stream):
    done, data = bench("double", "--concurrency", "1,8", "--rows", "2", *BRIEF, *stream)
    assert done.exit_code == 0, done.output
    assert [load["concurrency"] for load in data["loads"]] == [1, 8]
    assert data["settings"]["stream"] is bool(stream)
    for load in data["loads"]:
        assert load["requests"] == load["succeeded"] > 0
        assert load["errors"] == {}
        assert load["rows_per_second"] == pytest.approx(2 * load["requests_per_second"])
        assert 2 <= load["runs"]["rows"] <= load["runs"]["most_rows"] <= 4
    assert data["loads"][0]["runs"]["most_rows"] == 2  # a lone caller shares no run
    assert data["best"]["concurrency"] in (1, 8)
    assert "1 caller " in done.stdout
    assert "8 callers" in done.stdout
    assert "Best of these" in done.stdout
    assert "batching.max_rows is 4" in done.stdout


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_a_sweep_over_rates_sends_as_many_as_are_due(bench, stream, arrivals):
    done, data = bench("double", "--rate", "50,100", "--arrivals", arrivals, *SHORT, *stream)
    assert done.exit_code == 0, done.output
    assert [(load["rate"], load["requests"], load["succeeded"]) for load in data["loads"]] == [
        (50, 15, 15),
        (100, 30, 30),
    ]


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_errors_of_single_requests_are_counted_beside_the_answers(bench, tmp_path, stream):
    ids = np.zeros((4, 8), np.int64)
    ids[3] = 1
    np.save(tmp_path / "ids.npy", ids)
    # The rows are sent in turn, each as a request of its own: one in four fails, and fails alone.
    done, data = bench(
        "picky", "--input", "id=ids.npy", "--rows", "1", "--rate", "80", "--warm-up", "0", "--seconds", "0.5", *stream
    )
    assert done.exit_code == 0, done.output
    (load,) = data["loads"]
    assert (load["requests"], load["succeeded"], load["errors"]) == (40, 30, {"INVALID_ARGUMENT": 10})
    assert "cannot compute with these values" in load["messages"]["INVALID_ARGUMENT"]


def test_made_up_values_that_make_the_run_fail_are_reported_with_the_cure(bench):
    done, data = bench("picky", "--rows", "4")
    assert (done.exit_code, done.stdout, data) == (1, "", None)
    assert "cannot compute with these values" in done.stderr
    assert "The values of id were made up; give real ones: --input id=FILE" in done.stderr


def test_inputs_of_every_kind_are_made_up(bench):
    for model in ("fixed", "layered", "suffixed", "two"):
        done, data = bench(model, "--concurrency", "2", *BRIEF)
        assert done.exit_code == 0, done.output
        (load,) = data["loads"]
        assert load["errors"] == {}
        assert load["succeeded"] > 0


def test_requests_with_a_shared_input_share_runs(bench, server):
    done, data = bench("layered", "--concurrency", "32", *BRIEF)
    assert done.exit_code == 0, done.output
    assert data["loads"][0]["runs"]["most_rows"] > 1


def test_a_free_axis_is_asked_for_and_taken(bench):
    done, data = bench("sequence", *BRIEF)
    assert (done.exit_code, data) == (2, None)
    assert "--size seq=16" in " ".join(done.stderr.replace("│", " ").split())
    done, data = bench("sequence", "--size", "seq=5", "--rows", "3", "--concurrency", "1", *BRIEF)
    assert done.exit_code == 0, done.output
    assert data["request"]["inputs"] == {"x": "float32[3, 5]", "mask": "float32[3, 5]"}


def test_a_model_that_is_not_batched_says_why(bench):
    done, data = bench("fixed", "--concurrency", "4", *BRIEF)
    assert data["loads"][0]["runs"]["most_rows"] == 1
    assert "one request at a time: the first axis of input x has the fixed size 4" in done.stdout


def test_a_version_that_is_not_there_is_reported(bench):
    done, data = bench("double", "--version", "7")
    assert (done.exit_code, done.stdout, data) == (1, "", None)
    assert "model 'double' has no version '7'; available versions: 1" in done.stderr


def generator_of(target, model, x, stream=False):
    inputs = [TensorSpec(name="x", dtype="float32", shape=("batch", x.shape[1]), labels=())]
    requests = workload.make(inputs, {"x": x}, rows=None, sizes={})
    return Generator(
        target=target,
        credentials=None,
        messages=requests.messages(model, outputs=None, version=None, timeout=None),
        rows=1,
        timeout=30.0,
        stream=stream,
        warm_up=0.2,
        seconds=1.0,
    )


@pytest.mark.parametrize("load", [Callers(8), Rate(100)], ids=str)
def test_as_many_rows_were_in_the_server_as_its_own_gauge_says(server, load):
    asked, actives = Http(server.app.http_port), []
    is_measured, is_over = threading.Event(), threading.Event()

    def look():
        is_measured.wait()
        while not is_over.wait(0.01):
            points = asked.fetch_status()["metrics"]["onnxserve.rows.active"]["points"]
            actives.extend(point["value"] for point in points if point["attributes"]["model"] == "slow")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        generator = generator_of(server.address, "slow", np.full((1, 1), 15, np.float32))
        sample = generator.measure(load, lambda *_: is_measured.set())
    finally:
        is_over.set()
        is_measured.set()
        looking.join()
    assert sample.errors == {}
    assert mean(actives) / 1.5 < sample.rows_in_server < mean(actives) * 1.5


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_a_server_that_dies_meanwhile_costs_the_requests_from_then_on(launch, stream):
    process = launch({"double": zoo.double()})
    generator = generator_of(process.address, "double", np.ones((1, 3), np.float32), stream=stream)

    def kill(share, answered, failed):
        if answered:
            process.popen.kill()

    sample = generator.measure(Callers(4), kill)
    assert sample.complete
    assert sample.succeeded > 0
    assert sample.errors.keys() == {"UNAVAILABLE"}
    assert sample.requests == sample.succeeded + sample.failed


@pytest.mark.parametrize("suffix", ["svg", "html", "png"])
def test_the_picture_is_written(bench, tmp_path, suffix):
    done, _ = bench("double", "--concurrency", "1,2", *BRIEF, "--plot", f"plot.{suffix}")
    assert done.exit_code == 0, done.output
    start = {"svg": b"<svg", "html": b"<!DOCTYPE html>", "png": b"\x89PNG"}[suffix]
    assert (tmp_path / f"plot.{suffix}").read_bytes().startswith(start)


def test_the_command_runs_by_itself_and_prints_json_alone_on_stdout(server, onnxserve):
    done = onnxserve("bench", "double", "--target", server.address, "--rate", "20", *SHORT, "--json", "-")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["loads"][0]["succeeded"] == 6
    assert "20/s" in done.stderr


def test_help_tells_of_every_option(onnxserve):
    help_text = onnxserve("bench", "--help")
    assert help_text.returncode == 0
    for option in ("--concurrency", "--rate", "--stream", "--json", "--plot", "--limit-ms", "--warm-up"):
        assert option in help_text.stdout
