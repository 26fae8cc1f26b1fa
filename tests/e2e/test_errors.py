"""What a caller gets for a request that cannot be answered: the same code, reason and fields over either edge."""

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2

from onnxserve import errors
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2, tensor_pb2
from support import zoo
from support.waiting import until

PREDICT = "/onnxserve.v1.InferenceService/Predict"
MAX_MESSAGE_BYTES = 1 << 20

FLOAT, DOUBLE, STRING = tensor_pb2.DATA_TYPE_FLOAT, tensor_pb2.DATA_TYPE_DOUBLE, tensor_pb2.DATA_TYPE_STRING

BOOL = tensor_pb2.DATA_TYPE_BOOL

MODELS = {
    "double": zoo.double(),
    "two": zoo.two_by_two(),
    "sequence": zoo.sequence(),
    "fixed": zoo.fixed(),
    "gather": zoo.gather(),
    "parse": zoo.parse(),
    "text": zoo.identity(STRING),
    "bools": zoo.identity(BOOL),
    "column": zoo.column(),
    "table": zoo.table(150),
    "slow": zoo.slow(),
    "short": zoo.double(),
    "whole": zoo.double(),
}
CONFIGS = {
    "short": "batching: {max_queue_rows: 4, max_rows: 2}",
    "whole": "batching: {max_rows: 2, oversize: refuse}",
    "slow": "batching: {max_queue_rows: 1, max_rows: 1}",
}


def request(model="double", inputs=(), **fields):
    return inference_service_pb2.PredictRequest(model=model, inputs=inputs, **fields).SerializeToString()


def raw(name, data_type, shape, data=b"", strings=()):
    return tensor_pb2.Tensor(name=name, data_type=data_type, shape=shape, data=data, strings=strings)


def x(*shape, dtype=np.float32, name="x"):
    return encode(name, np.zeros(shape, dtype))


A, B = x(2, 2, name="a"), x(2, 3, name="b", dtype=np.int64)
HUGE = 2**62

# name of the case: request, fields at fault
INVALID = {
    "garbage": (b"\xff\xff\xff\xff", ["request"]),
    "cut short": (request(inputs=[x(1, 3)])[:-1], ["request"]),
    "text that is not UTF-8 in a name": (b"\x0a\x02\xff\xfe", ["request"]),
    "empty": (b"", ["model"]),
    "no model": (request("", [x(1, 3)]), ["model"]),
    "no input": (request(), ["inputs"]),
    "one input of two": (request("two", [A]), ["inputs"]),
    "unknown input": (request(inputs=[x(1, 3, name="z")]), ["inputs[0].name", "inputs"]),
    "an unknown input more": (request(inputs=[x(1, 3), x(1, 3, name="z")]), ["inputs[1].name"]),
    "an input without a name": (request(inputs=[x(1, 3, name="")]), ["inputs[0].name", "inputs"]),
    "input given twice": (request(inputs=[x(1, 3), x(1, 3)]), ["inputs[1].name"]),
    "unknown output": (request(inputs=[x(1, 3)], outputs=["y", "z"]), ["outputs[1]"]),
    "output asked for twice": (request(inputs=[x(1, 3)], outputs=["y", "y"]), ["outputs[1]"]),
    "too few axes": (request(inputs=[x(3)]), ["inputs[0].shape"]),
    "too many axes": (request(inputs=[x(1, 1, 3)]), ["inputs[0].shape"]),
    "scalar": (request(inputs=[x()]), ["inputs[0].shape"]),
    "wrong fixed size": (request(inputs=[x(1, 4)]), ["inputs[0].shape"]),
    "wrong fixed first size": (request("fixed", [x(3, 3)]), ["inputs[0].shape"]),
    "negative size": (request(inputs=[raw("x", FLOAT, [-1, 3])]), ["inputs[0].shape"]),
    "negative sizes whose product is right": (
        request("sequence", [raw("x", FLOAT, [-1, -1], b"1234"), x(1, 1, name="mask")]),
        ["inputs[0].shape"],
    ),
    "size that overflows": (request(inputs=[raw("x", FLOAT, [HUGE, 3])]), ["inputs[0].data"]),
    "size that overflows to 0 bytes": (
        request("sequence", [raw("x", FLOAT, [HUGE, 4]), raw("mask", FLOAT, [HUGE, 4])]),
        ["inputs[0].data", "inputs[1].data"],
    ),
    "uncountable size beside 0": (
        request("sequence", [raw("x", FLOAT, [0, HUGE]), raw("mask", FLOAT, [0, HUGE])]),
        ["inputs[0].shape", "inputs[1].shape"],
    ),
    "row beyond all memory, beside 0 rows": (
        request("sequence", [raw("x", FLOAT, [0, 2**46]), raw("mask", FLOAT, [0, 2**46])]),
        ["inputs"],
    ),
    "too few bytes": (request(inputs=[raw("x", FLOAT, [1, 3], bytes(11))]), ["inputs[0].data"]),
    "too many bytes": (request(inputs=[raw("x", FLOAT, [1, 3], bytes(13))]), ["inputs[0].data"]),
    "bytes for no rows": (request(inputs=[raw("x", FLOAT, [0, 3], bytes(12))]), ["inputs[0].data"]),
    "strings for numbers": (request(inputs=[raw("x", FLOAT, [1, 3], strings=[b"a"] * 3)]), ["inputs[0].strings"]),
    "wrong type": (request(inputs=[x(1, 3, dtype=np.float64)]), ["inputs[0].data_type"]),
    "no type": (request(inputs=[raw("x", 0, [1, 3], bytes(12))]), ["inputs[0].data_type"]),
    "unknown type": (request(inputs=[raw("x", 99, [1, 3], bytes(12))]), ["inputs[0].data_type"]),
    "inputs that disagree on rows": (request("two", [A, x(3, 3, name="b", dtype=np.int64)]), ["inputs[1].shape"]),
    "the same in another order": (request("two", [x(3, 3, name="b", dtype=np.int64), A]), ["inputs[0].shape"]),
    "axes of one name that disagree": (request("sequence", [x(2, 4), x(2, 5, name="mask")]), ["inputs[1].shape"]),
    "two faults of one request": (
        request("two", [x(2, 9, name="a"), x(2, 3, name="b")]),
        ["inputs[0].shape", "inputs[1].data_type"],
    ),
    "more rows than ever fit the queue": (request("short", [x(5, 3)]), ["inputs"]),
    "more rows than a run that is not split": (request("whole", [x(3, 3)]), ["inputs[0].shape"]),
    "string that is not UTF-8": (
        request("text", [raw("x", STRING, [1, 2], strings=[b"fine", b"\xff"])]),
        ["inputs[0].strings[1]"],
    ),
    "too few strings": (request("text", [raw("x", STRING, [1, 2], strings=[b"one"])]), ["inputs[0].strings"]),
    "too many strings": (request("text", [raw("x", STRING, [1, 2], strings=[b"one"] * 3)]), ["inputs[0].strings"]),
    "strings as data": (request("text", [raw("x", STRING, [1, 2], b"ab")]), ["inputs[0].data"]),
    "numbers with strings beside them": (
        request(inputs=[raw("x", FLOAT, [1, 3], bytes(12), strings=[b"a"])]),
        ["inputs[0].strings"],
    ),
    "bytes of a bool that are neither 0 nor 1": (
        request("bools", [raw("x", BOOL, [1, 2], b"\1\2")]),
        ["inputs[0].data"],
    ),
    "a scalar for a batch of scalars": (request("column", [x()]), ["inputs[0].shape"]),
    "a hundred thousand outputs": (request(inputs=[x(1, 3)], outputs=[""] * 100_000), ["outputs"]),
    "a hundred thousand inputs": (request(inputs=[raw("", 0, [], b"")] * 100_000), ["inputs"]),
    "priority too high": (request(inputs=[x(1, 3)], priority=11), ["priority"]),
    "priority too low": (request(inputs=[x(1, 3)], priority=-(2**31)), ["priority"]),
    "request_id too long": (request(inputs=[x(1, 3)], request_id="a" * 129), ["request_id"]),
    "negative timeout": (request(inputs=[x(1, 3)], timeout=duration_pb2.Duration(seconds=-1)), ["timeout"]),
    "timeout negative by a nanosecond": (
        request(inputs=[x(1, 3)], timeout=duration_pb2.Duration(nanos=-1)),
        ["timeout"],
    ),
}


@pytest.fixture(scope="module", params=["lane", "plain"])
def server(request, serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS, CONFIGS)
    with serving(root, edge=request.param, max_message_bytes=MAX_MESSAGE_BYTES) as running:
        yield running


@pytest.fixture(scope="module")
def predict(server):
    """Make a call with bytes, at most a minute long; gives its rpc error, None when it succeeded."""
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(PREDICT)
        yield lambda message, **options: method.future(message, **{"timeout": 60} | options).exception()


@pytest.fixture(autouse=True)
def goes_on_serving(server):
    """After each case the server answers, and holds on to no call."""
    yield
    assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
    until(lambda: server.app.grpc.edge.live_calls == 0)


@pytest.mark.parametrize(("message", "fields"), INVALID.values(), ids=INVALID)
def test_a_bad_request_is_answered_with_the_fields_at_fault(predict, message, fields):
    error = errors.from_rpc_error(predict(message))
    assert isinstance(error, errors.InvalidArgument), error
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_REQUEST"
    assert [violation.field for violation in error.violations] == fields
    assert all(violation.description for violation in error.violations)
    assert error.message.startswith(f"{fields[0]}: ")
    assert error.retry_delay is None


@pytest.mark.parametrize(
    ("fields", "resource"),
    [({"model": "nope"}, "nope"), ({"model": "double", "version": "7"}, "double/7")],
    ids=["model", "version"],
)
def test_what_is_not_there_is_not_found(predict, fields, resource):
    error = errors.from_rpc_error(predict(request(inputs=[x(1, 3)], **fields)))
    assert isinstance(error, errors.NotFound)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert (error.resource, error.violations) == (resource, ())


def test_values_that_the_model_cannot_compute_with_are_the_callers_fault(predict):
    message = request("gather", [encode("id", np.array([[99]]))], request_id="mine")
    error = errors.from_rpc_error(predict(message))
    assert isinstance(error, errors.InvalidArgument)
    assert (error.reason, error.request_id) == ("INVALID_VALUES", "mine")
    assert [violation.field for violation in error.violations] == ["inputs"]
    assert "Gather: indices element out of data bounds, idx=99 must be within" in error.message


def test_a_run_that_fails_is_told_apart_from_other_faults_of_the_server(predict):
    message = request("parse", [encode("x", np.array(["no number"], object))], request_id="mine")
    error = errors.from_rpc_error(predict(message))
    assert isinstance(error, errors.ModelRunFailed)
    assert (error.code, error.reason, error.request_id) == (grpc.StatusCode.INTERNAL, "MODEL_RUN_FAILED", "mine")


def message_of(size):
    """A message of exactly so many bytes, with more data than its shape says."""
    empty = len(request(inputs=[raw("x", FLOAT, [1, 3], bytes(2**18))])) - 2**18
    return request(inputs=[raw("x", FLOAT, [1, 3], bytes(size - empty))])


def test_a_message_over_the_limit_is_refused_by_grpc_itself(predict):
    for _ in range(20):  # the lane must not be first, with a status of its own
        error = errors.from_rpc_error(predict(message_of(MAX_MESSAGE_BYTES + 1)))
        assert isinstance(error, errors.ResourceExhausted)
        assert str(MAX_MESSAGE_BYTES) in error.message
        assert (error.reason, error.retry_delay) == ("", None)


def test_a_message_at_the_limit_is_read(predict):
    message = message_of(MAX_MESSAGE_BYTES)
    assert len(message) == MAX_MESSAGE_BYTES
    assert [violation.field for violation in errors.from_rpc_error(predict(message)).violations] == ["inputs[0].data"]


def test_a_request_whose_time_is_up_is_not_run(predict):
    message = request(inputs=[x(1, 3)], timeout=duration_pb2.Duration())
    error = errors.from_rpc_error(predict(message))
    assert isinstance(error, errors.DeadlineExceeded)
    assert error.reason == "DEADLINE_EXCEEDED"


def test_a_run_that_takes_longer_than_the_timeout_is_broken_off(predict, server):
    message = request(
        "slow", [encode("x", np.full((1, 1), 1e6, np.float32))], timeout=duration_pb2.Duration(nanos=10**8)
    )
    error = errors.from_rpc_error(predict(message))
    assert isinstance(error, errors.DeadlineExceeded)
    assert error.reason == "DEADLINE_EXCEEDED"
    server.wait_for("slow", lambda load: load.running_jobs == 0)


def test_a_full_queue_says_when_to_come_again(predict, server):
    endless = request("slow", [encode("x", np.full((1, 1), 1e6, np.float32))])
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(PREDICT)
        running = method.future(endless)
        server.wait_for("slow", lambda load: load.running_jobs == 1)
        waiting = method.future(endless)
        server.wait_for("slow", lambda load: load.queued_jobs == 1)
        rpc_error = predict(endless)
        error = errors.from_rpc_error(rpc_error)
        waiting.cancel()
        running.cancel()
    assert isinstance(error, errors.ResourceExhausted)
    assert (error.reason, error.metadata["queued_rows"]) == ("QUEUE_FULL", "1")
    pushback = dict(rpc_error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert error.retry_delay == pytest.approx(int(pushback) / 1e3)
    assert error.retry_delay > 0
    server.wait_for("slow", lambda load: (load.running_jobs, load.queued_jobs) == (0, 0))


def test_a_call_that_its_caller_cancels_leaves_nothing_behind(server):
    endless = request("slow", [encode("x", np.full((1, 1), 1e6, np.float32))])
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(PREDICT).future(endless)
        server.wait_for("slow", lambda load: load.running_jobs == 1)
        call.cancel()
        assert call.code() == grpc.StatusCode.CANCELLED
        server.wait_for("slow", lambda load: load.running_jobs == 0)


def test_an_unknown_method_is_unimplemented(server):
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary("/onnxserve.v1.InferenceService/Train")
        rpc_error = method.future(b"", timeout=60).exception()
    assert isinstance(errors.from_rpc_error(rpc_error), errors.Unimplemented)


def test_an_unforeseen_failure_tells_the_caller_nothing_but_the_id_for_the_log(predict, server, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret of another caller")

    monkeypatch.setattr(server.app.engine, "submit", broken)
    error = errors.from_rpc_error(predict(request(inputs=[x(1, 3)], request_id="mine")))
    monkeypatch.undo()
    assert (error.code, error.reason, error.request_id) == (grpc.StatusCode.INTERNAL, "INTERNAL", "mine")
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    assert "'mine'" in caplog.text


def test_an_error_with_many_faults_and_long_names_fits_into_what_grpc_carries(predict):
    table = request("table", [encode(f"c{i}", np.zeros((1, 1))) for i in range(150)])
    error = errors.from_rpc_error(predict(table))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "149 more" in error.message
    assert [violation.field for violation in error.violations] == [f"inputs[{i}].data_type" for i in range(12)]
    assert errors.from_rpc_error(predict(request("table", []))).code == grpc.StatusCode.INVALID_ARGUMENT
    assert errors.from_rpc_error(predict(request("m" * 100_000, []))).code == grpc.StatusCode.NOT_FOUND
