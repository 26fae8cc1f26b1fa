"""Spot checks of a server that serves: what they find, what they leave alone, and what they show."""

import json
import logging

import numpy as np
import pytest
from onnx import helper

from onnxserve_server.telemetry import catalogue
from support import zoo
from support.asking import Http
from support.streaming import Line, expected, output, step
from support.waiting import until

ROWS = 4
# Batching is on although the graph may say that rows meet. Full batches, of callers that send at the same time.
FULL = f"max_rows: {ROWS}, max_delay_us: 10000000"


def random_model():
    """y = x + random noise, float32 [batch, 3]."""
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    return zoo.model(nodes, [zoo.tensor("x", ["batch", 3])], [zoo.tensor("y", ["batch", 3])])


INDEPENDENT = {  # the inputs of a batch, of models whose rows do not change each other
    "mlp": lambda rng: {"x": rng.standard_normal((ROWS, 64)).astype("f4")},
    "two_by_two": lambda rng: {"a": rng.random((ROWS, 2), "f4"), "b": rng.integers(0, 9, (ROWS, 3))},
    "gather": lambda rng: {"id": rng.integers(0, 9, (ROWS, 1))},
    "lstm": lambda rng: {"x": rng.random((ROWS, 5, 2), "f4")},
}
MODELS = {name: getattr(zoo, name)() for name in [*INDEPENDENT, "triggered", "double", "recurrent", "layered"]}
MODELS |= {"random": random_model()}
CONFIGS = dict.fromkeys(MODELS, f"batching: {{enabled: true, spot_checks: 1, {FULL}}}")
CONFIGS["double"] = f"batching: {{spot_checks: 0, {FULL}}}"
CONFIGS["recurrent"] += "\nstate: auto"
CONFIGS["layered"] += "\nbatch_axis: {state: 1, stateN: 1}\nshared: [scale]"
SETTINGS = {"http_port": 0}
MAX_AFFECTED = 200
"""Batches after which a dependence is found but once in thousands of times, if every second one is checked."""


def send_batch(server, model, rows):
    """Send a batch of requests, and return the answers."""
    calls = [server.send(model, **{name: array[i : i + 1] for name, array in rows.items()}) for i in range(ROWS)]
    return [call.result(timeout=30) for call in calls]


def triggered_rows():
    x = np.ones((ROWS, 3), np.float32)
    x[0, 0] = zoo.TRIGGER
    return {"x": x}


def checks(server, model):
    """{result: checks} of a model so far."""
    metrics = {metric.instrument: metric.points for metric in server.app.telemetry.metrics.collect()}
    points = metrics.get(catalogue.SPOT_CHECKS, [])
    return {result: count for (name, _, result), count in points if name == model}


def test_a_dependence_that_values_of_callers_alone_cause_is_found_and_stops_batching(server, caplog):
    harmless = {"x": np.ones((ROWS, 3), np.float32)}
    for _ in range(5):
        send_batch(server, "triggered", harmless)
    assert server.client.model("triggered").batching.enabled
    for _ in range(MAX_AFFECTED):
        send_batch(server, "triggered", triggered_rows())
        if not server.app.engine.spec("triggered").batching.enabled:
            break
    batching = server.client.model("triggered").batching
    assert not batching.enabled
    assert batching.rows.rows == "DEPENDENT"
    assert "output y depends on the other rows of its batch: row" in batching.reason
    (line,) = until(lambda: [record for record in caplog.records if record.levelno == logging.ERROR])
    assert "output y" in line.getMessage()
    assert line.model == "triggered"
    assert checks(server, "triggered")["dependent"] == 1
    status = Http(server.app.http_port).fetch_status()
    shown = next(model for model in status["models"] if model["name"] == "triggered")["batching"]
    assert (shown["stopped"], shown["rows"]["rows"], shown["reason"]) == (True, "dependent", batching.reason)
    answers = send_batch(server, "triggered", triggered_rows())
    assert all(answer.receipt.batch_requests == 1 for answer in answers)
    assert np.frombuffer(answers[1].outputs[0].data, np.float32).tolist() == [1, 1, 1]
    assert json.dumps(zoo.TRIGGER) not in caplog.text


@pytest.mark.parametrize("model", INDEPENDENT)
def test_models_whose_rows_are_independent_go_on_in_batches(server, model):
    rng = np.random.default_rng(0)
    for _ in range(100):
        send_batch(server, model, INDEPENDENT[model](rng))
    assert server.client.model(model).batching.enabled
    found = until(lambda: checks(server, model))
    assert found.get("failed", 0) == 0
    assert sum(found.values()) >= 2


def test_a_model_that_draws_random_numbers_is_left_out(server):
    for _ in range(20):
        send_batch(server, "random", {"x": np.ones((ROWS, 3), np.float32)})
    assert server.client.model("random").batching.enabled
    assert checks(server, "random") == {}


def test_without_a_share_nothing_is_checked(server):
    for _ in range(20):
        send_batch(server, "double", {"x": np.ones((ROWS, 3), np.float32)})
    assert checks(server, "double") == {}


def test_the_time_of_checks_is_counted(server):
    for _ in range(20):
        send_batch(server, "two_by_two", INDEPENDENT["two_by_two"](np.random.default_rng(0)))
    until(lambda: checks(server, "two_by_two").get("same", 0) >= 1)
    metrics = {metric.instrument: metric.points for metric in server.app.telemetry.metrics.collect()}
    (seconds,) = [value for labels, value in metrics[catalogue.SPOT_CHECK_TIME] if labels == ("two_by_two", "1")]
    assert 0 < seconds < 10


def test_steps_of_sequences_are_checked_as_requests_are(server):
    lines = [Line(server.stub) for _ in range(ROWS)]
    values = range(1, 31)
    got = []
    for value in values:
        for number, line in enumerate(lines):
            line.send(step(str(number), value + number))
        got.append([output(next(line))[0, 0] for line in lines])
    for line in lines:
        line.close()
    for number, answers in enumerate(np.transpose(got)):
        np.testing.assert_allclose(answers, expected([value + number for value in values]), rtol=1e-5)
    until(lambda: checks(server, "recurrent").get("same", 0) >= 2)
    assert server.client.model("recurrent").batching.enabled


def test_inputs_without_rows_and_rows_along_other_axes_are_checked_too(server):
    for _ in range(10):
        state = np.random.default_rng(0).random((2, 1, 3), np.float32)
        rows = {"x": np.ones((1, 3), np.float32), "state": state, "scale": np.float32(2)}
        for call in [server.send("layered", **rows) for _ in range(ROWS)]:
            call.result(timeout=30)
    until(lambda: checks(server, "layered").get("same", 0) >= 2)
    assert server.client.model("layered").batching.enabled
