"""Models whose number of output rows depends on the values of their inputs."""

import numpy as np
import pytest

from support import zoo

# Batching is on although the graph may say that rows meet; two rows fill a run, and one row waits for a second one.
PAIRS = "batching: {enabled: true, max_rows: 2, max_delay_us: 10000000}"
MODELS = {name: zoo.dropping() for name in ("lone", "pair", "empty", "of3", "of4", "of101")}
MODELS |= {"named": zoo.dropping(rows="kept"), "ragged": zoo.ragged(), "masks": zoo.masks()}
CONFIGS = dict.fromkeys(("lone", "pair", "empty"), PAIRS)
CONFIGS |= dict.fromkeys(("of3", "of4", "of101"), "batching: {enabled: true, max_rows: 2}")
CONFIGS |= {"ragged": "batching: {enabled: true, max_rows: 64}"}
STAYS, DROPPED = [[1, 2, 3, 4]], [[zoo.DROPPED, 0, 0, 0]]


def two_rows():
    return np.array(STAYS + DROPPED, np.float32)


def row(values):
    return np.array(values, np.float32)


def check_runs_alone(server, model):
    batching = server.client.model(model).batching
    assert not batching.enabled
    assert batching.rows.rows == "DEPENDENT"
    assert batching.reason == batching.rows.reason
    assert server.client.predict(model, {"x": two_rows()})["y"].tolist() == STAYS


def test_a_model_whose_outputs_have_another_name_for_their_rows_is_not_batched_from_the_start(server):
    batching = server.client.model("named").batching
    assert not batching.enabled
    assert server.client.predict("named", {"x": two_rows()})["y"].tolist() == STAYS


def test_a_lone_request_is_answered_as_onnx_runtime_answers_it_and_batching_stops(server, caplog):
    assert server.client.model("lone").batching.enabled
    assert server.client.predict("lone", {"x": two_rows()})["y"].tolist() == STAYS
    check_runs_alone(server, "lone")
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "its output y had the shape [1, 4] for 2 rows" in line.getMessage()
    assert (line.model, line.version) == ("lone", "1")


def test_the_requests_of_a_batch_without_a_row_for_each_are_all_answered(server):
    calls = [server.send("pair", x=row(x)) for x in (STAYS, DROPPED)]
    answers = [call.result(timeout=30).outputs[0] for call in calls]
    assert [[*answer.shape] for answer in answers] == [[1, 4], [0, 4]]
    assert all(call.result().receipt.batch_requests == 1 for call in calls)
    check_runs_alone(server, "pair")


def test_a_request_without_rows_is_answered_too(server):
    assert server.client.predict("empty", {"x": np.zeros((0, 4), np.float32)})["y"].shape == (0, 4)


@pytest.mark.parametrize("rows", [3, 4, 101])
def test_a_request_of_more_rows_than_one_run_takes_is_answered_from_one_run(server, rows):
    x = np.concatenate([two_rows(), np.ones((rows - 2, 4), np.float32)])
    got = server.client.predict(f"of{rows}", {"x": x})
    assert got["y"].tolist() == STAYS + [[1, 1, 1, 1]] * (rows - 2)
    assert got.receipt.batch_requests == 1


def test_a_request_whose_parts_have_answers_of_different_shapes_is_run_whole(server):
    x = np.ones((100, 4), np.float32)
    x[70] = zoo.RAGGED
    assert np.array_equal(server.client.predict("ragged", {"x": x})["y"], x[:, :3])
    batching = server.client.model("ragged").batching
    assert not batching.enabled
    assert "outputs of the runs of one request cannot be joined" in batching.reason


def test_masks_as_long_as_the_longest_of_a_request_are_not_batched(server):
    length = np.arange(1, 101)
    expected = np.arange(100) < length[:, None]
    assert np.array_equal(server.client.predict("masks", {"length": length})["mask"], expected)
    assert server.client.model("masks").batching.rows.rows == "DEPENDENT"
