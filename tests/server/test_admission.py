"""Each fault of a request is found, named with its field, and told with its cure; all faults at once."""

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.core import Request, WireTensor
from onnxserve_server.engine.admission import Admission, ServerInputs
from onnxserve_server.errors import InvalidRequest
from onnxserve_server.spec import BatchPolicy, ModelSpec, TensorSpec

FLOAT, INT64, STRING, BOOL = (
    DataType.DATA_TYPE_FLOAT,
    DataType.DATA_TYPE_INT64,
    DataType.DATA_TYPE_STRING,
    DataType.DATA_TYPE_BOOL,
)


def spec(*inputs, **policy):
    return ModelSpec(
        name="m",
        version="1",
        inputs=inputs,
        outputs=(TensorSpec(name="y", data_type=FLOAT, shape=("batch", 1)),),
        batching=BatchPolicy(**{"enabled": True} | policy),
        requested_providers=("cpu",),
        providers=("cpu",),
    )


X = TensorSpec(name="x", data_type=FLOAT, shape=("batch", 3))
IDS = TensorSpec(name="ids", data_type=INT64, shape=("batch", "time"))
MASK = TensorSpec(name="mask", data_type=BOOL, shape=("batch", "time"))
TEXT = TensorSpec(name="text", data_type=STRING, shape=("batch",))
TABLE = TensorSpec(name="table", data_type=FLOAT, shape=("k",), batch_axis=None)


def wire(name, array, data_type=FLOAT, **fields):
    tensor = {"shape": array.shape, "data": array.tobytes(), "strings": ()} | fields
    return WireTensor(name, data_type, **tensor)


def floats(rows=2, columns=3):
    return np.zeros((rows, columns), "<f4")


def admit(model, *tensors, server_inputs=None, **fields):
    return Admission(model).admit(Request("m", "", list(tensors), **fields), 100.0, print, server_inputs)


def refusal(model, *tensors, **fields):
    with pytest.raises(InvalidRequest) as raised:
        admit(model, *tensors, **fields)
    assert raised.value.metadata == {"model": "m", "version": "1"}
    return [tuple(violation) for violation in raised.value.violations]


def test_a_request_that_fits_becomes_a_job():
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    job = admit(spec(X), wire("x", array), priority=2)
    assert (job.rows, job.nbytes, job.arrived, job.priority, job.rank) == (2, 24, 100.0, 2, 98.0)
    assert job.inputs[0].tolist() == array.tolist()
    assert [output.name for output in job.outputs] == ["y"]


@pytest.mark.parametrize(
    ("tensor", "field", "message"),
    [
        (wire("z", floats()), "inputs[0].name", "unknown input 'z'; the model's inputs are 'x'"),
        (
            wire("x", floats(), INT64),
            "inputs[0].data_type",
            "input 'x' is float32, not int64; values are never converted",
        ),
        (wire("x", floats(), 0), "inputs[0].data_type", "data_type is not set; input 'x' is float32"),
        (
            wire("x", floats(), 99),
            "inputs[0].data_type",
            "input 'x' is float32, not type 99; values are never converted",
        ),
        (wire("x", floats(2, 4)), "inputs[0].shape", "input 'x' has the shape [batch, 3], not [2, 4]"),
        (wire("x", floats(), shape=(-1, 3)), "inputs[0].shape", "input 'x' has the shape [batch, 3], not [-1, 3]"),
        (wire("x", floats(), shape=(6,)), "inputs[0].shape", "input 'x' has the shape [batch, 3], not [6]"),
        (wire("x", floats(), data=b"1234"), "inputs[0].data", "4 bytes do not fill [2, 3] of float32: expected 24"),
        (wire("x", floats(), strings=(b"a",)), "inputs[0].strings", "must be empty for float32"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_told_with_its_field(tensor, field, message):
    assert (field, message) in refusal(spec(X), tensor)


@pytest.mark.parametrize(
    ("model", "tensors", "field", "message"),
    [
        (spec(X), (), "inputs", "'x' missing; the model needs 'x'"),
        (spec(X), (wire("x", floats()), wire("x", floats())), "inputs[1].name", "input 'x' is given twice"),
        (
            spec(X, IDS),
            (wire("ids", np.zeros((3, 5), "<i8"), INT64), wire("x", floats())),
            "inputs[0].shape",
            "all inputs must have the same number of rows: 2 in 'x', 3 in 'ids'",
        ),
        (
            spec(IDS, MASK),
            (wire("ids", np.zeros((1, 5), "<i8"), INT64), wire("mask", np.zeros((1, 4), "?"), BOOL)),
            "inputs[1].shape",
            "axis 'time' must have the same size everywhere: 5 in 'ids', 4 in 'mask'",
        ),
        (
            spec(X, max_rows=4, split=False),
            (wire("x", floats(5)),),
            "inputs[0].shape",
            "5 rows exceed max_rows (4), and batching.oversize of the model is refuse: send less at a time, or set it "
            "to split",
        ),
        (
            spec(X, max_queue_rows=4),
            (wire("x", floats(5)),),
            "inputs",
            "5 rows (60 bytes) exceed what the model's queue can ever hold: max_queue_rows is 4, "
            "max_queue_bytes 268435456; send less at a time, or raise them",
        ),
        (
            spec(MASK),
            (wire("mask", np.full((1, 1), 2, "u1"), BOOL),),
            "inputs[0].data",
            "input 'mask' is bool: each byte must be 0 or 1",
        ),
        (
            spec(TEXT),
            (WireTensor("text", STRING, (1,), b"", [b"\xff"]),),
            "inputs[0].strings[0]",
            "input 'text' holds text, and this is not valid UTF-8: invalid start byte",
        ),
    ],
    ids=["missing", "twice", "rows", "axis", "too many rows", "queue", "bool", "text"],
)
def test_what_is_wrong_with_the_inputs_together_is_told(model, tensors, field, message):
    assert refusal(model, *tensors) == [(field, message)]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"priority": 11}, "priority", "must be between -10 and 10, not 11"),
        ({"outputs": ["z"]}, "outputs[0]", "unknown output 'z'; the model's outputs are 'y'"),
        ({"outputs": ["y", "y"]}, "outputs[1]", "output 'y' is asked for twice"),
    ],
)
def test_what_is_wrong_with_the_rest_is_told(fields, field, message):
    assert refusal(spec(X), wire("x", floats()), **fields) == [(field, message)]


def test_all_faults_are_told_at_once():
    faults = refusal(spec(X, IDS), wire("x", floats(), INT64), wire("z", floats()), outputs=["w"], priority=99)
    assert [field for field, _ in faults] == [
        "outputs[0]",
        "priority",
        "inputs[0].data_type",
        "inputs[1].name",
        "inputs",
    ]


def test_what_the_server_adds_must_not_be_sent():
    given = ServerInputs({1: np.zeros((2, 4), "<i8")}, (), ())
    job = admit(spec(X, IDS), wire("x", floats()), server_inputs=given)
    assert [array.shape for array in job.inputs] == [(2, 3), (2, 4)]
    with pytest.raises(InvalidRequest, match="input 'ids' is the sequence's state, which the server keeps"):
        admit(
            spec(X, IDS),
            wire("x", floats()),
            wire("ids", np.zeros((2, 4), "<i8"), INT64),
            server_inputs=given,
        )


def test_jobs_share_a_key_when_their_rows_have_one_shape():
    model = spec(IDS)
    keys = [
        admit(model, wire("ids", np.zeros((rows, time), "<i8"), INT64)).key for rows, time in ((1, 5), (3, 5), (1, 6))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_jobs_share_a_key_when_what_they_share_is_equal():
    model = spec(X, TABLE)
    tables = ([1, 2], [1, 2], [1, 3], [1])
    keys = [admit(model, wire("x", floats()), wire("table", np.array(table, "<f4"))).key for table in tables]
    assert keys[0] == keys[1]
    assert len({*keys}) == 3


def test_a_request_without_rows_counts_the_row_of_zeros_that_it_is_run_as():
    job = admit(spec(X), wire("x", floats(0)))
    assert (job.rows, job.nbytes) == (0, 12)
