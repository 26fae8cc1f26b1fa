"""The log of a process: what a store of logs makes of a start, its failure, and a stop."""

import json

import numpy as np
import pytest

import onnxserve
from onnxserve import Client
from onnxserve_server.telemetry.logs import Json
from support import zoo
from support.otlp import receiver
from support.waiting import until


@pytest.fixture
def broken(tmp_path):
    """A repository with a file that is no model."""
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    (root / "double" / "1" / "model.onnx").write_bytes(b"no model")
    return root


@pytest.fixture
def fail(onnxserve):
    """Start a server that cannot start; returns what came to stderr."""

    def start(root, *flags, **environment):
        ports = ("--port", 0, "--http-port", -1, "--providers", "cpu")
        done = onnxserve("serve", "--models", root, *ports, *flags, **environment)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    return start


def test_a_start_that_fails_ends_with_an_error_for_programs(fail, broken):
    records = [json.loads(line) for line in fail(broken, "--log-format", "json").splitlines()]
    (error,) = [record for record in records if record["level"] == "error"]
    assert error is records[-1]
    assert f"{broken}/double/1/model.onnx: ONNX Runtime cannot load it" in error["message"]
    assert "stopped" not in [record["message"] for record in records]


def test_a_start_that_fails_ends_with_a_line_for_people(fail, broken):
    output = fail(broken)
    *_, last = output.splitlines()
    assert last.startswith(f"onnxserve: {broken}/double/1/model.onnx: ONNX Runtime cannot load it")
    assert output.count("cannot load it") == 1
    assert "stopped" not in output


def test_a_collector_learns_why_a_start_failed(fail, broken):
    with receiver() as collector:
        fail(broken, "--otlp-endpoint", collector.endpoint)
        (error,) = [record for record in collector.records if record.severity_text == "ERROR"]
    assert "cannot load it" in error.body.string_value


@pytest.mark.parametrize("by_flag", [True, False], ids=["flag", "environment"])
def test_settings_that_are_wrong_are_told_in_json_where_that_is_asked_for(fail, broken, by_flag):
    flags, environment = (("--log-format", "json"), {}) if by_flag else ((), {"ONNXSERVE_LOG_FORMAT": "json"})
    (line,) = fail(broken, "--max-rows", 0, *flags, **environment).splitlines()
    fields = json.loads(line)
    assert fields["level"] == "error"
    assert "max_rows: input should be greater than or equal to 1" in fields["message"]


def test_a_server_tells_when_it_is_ready_and_last_that_it_stopped(launch):
    server = launch({"double": zoo.double(), "other": zoo.double()}, "--log-format", "json")
    assert server.stop()[0] == 0
    records = [json.loads(line) for line in server.log.read_text().splitlines()]
    (ready,) = [record for record in records if record["message"] == "ready"]
    fields = {name: ready[name] for name in ("level", "address", "version", "edge", "models")}
    version = onnxserve.__version__
    assert fields == {"level": "info", "address": server.address, "version": version, "edge": "lane", "models": 2}
    assert records[-1]["message"] == "stopped"


def test_onnx_runtime_tells_nothing_again_that_the_log_tells(launch):
    server = launch({"parse": zoo.parse()})
    assert server.stop()[0] == 0
    log = server.log.read_text()
    assert "model parse/1 runs one request at a time: the check found no input that it runs on" in log
    assert "(give it rows that it runs on as check.rows in report.json beside the model)" in log
    assert "model parse/1 could not be warmed up: Cast: stod" in log
    assert "[E:onnxruntime" not in log
    assert "\x1b" not in log


def test_what_is_withheld_is_told_before_the_end(launch):
    server = launch({"parse": zoo.parse()}, "--log-format", "json")
    with Client(server.address, retries=0, coalesce=False) as client:
        for _ in range(25):
            with pytest.raises(onnxserve.ModelRunFailed):
                client.predict("parse", {"x": np.array(["no number"], object)})
    assert server.stop()[0] == 0
    *records, stopped = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert stopped["message"] == "stopped"
    failures = [record["message"] for record in records if "the model failed in its run" in record["message"]]
    assert len(failures) == 11
    assert failures[-1].endswith("(and 14 more like it since)")


def test_what_is_told_of_a_failed_run_and_of_its_request_goes_together(serve, caplog):
    server = serve({"parse": zoo.parse()})
    caplog.clear()  # it could not be warmed up
    with pytest.raises(onnxserve.ModelRunFailed):
        server.client.predict("parse", {"x": np.array(["no number"], object)}, request_id="r1")
    warnings = until(lambda: len(found := [r for r in caplog.records if r.levelname == "WARNING"]) == 2 and found)
    run, request = (json.loads(Json().format(one)) for one in warnings)
    assert run["message"].startswith("the model failed in its run: ")
    assert (run["model"], run["version"]) == (request["model"], request["version"]) == ("parse", "1")
    assert (request["error.type"], request["request_id"]) == ("MODEL_RUN_FAILED", "r1")
