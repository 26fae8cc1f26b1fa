import asyncio
import pickle
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import onnxserve
from onnxserve import errors
from onnxserve.v1 import inference_service_pb2

CLASSES = {
    "CANCELLED": errors.Cancelled,
    "UNKNOWN": errors.OnnxserveError,
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.OnnxserveError,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "ABORTED": errors.OnnxserveError,
    "OUT_OF_RANGE": errors.OnnxserveError,
    "UNIMPLEMENTED": errors.Unimplemented,
    "INTERNAL": errors.Internal,
    "UNAVAILABLE": errors.Unavailable,
    "DATA_LOSS": errors.OnnxserveError,
    "UNAUTHENTICATED": errors.Unauthenticated,
}


def error_info(reason, **metadata):
    return error_details_pb2.ErrorInfo(reason=reason, domain="onnxserve", metadata=metadata)


def violations(*pairs):
    kind = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(field_violations=[kind(field=f, description=d) for f, d in pairs])


DETAILS = {  # code, details, what the exception then says
    "violations": (
        "INVALID_ARGUMENT",
        [error_info("BAD_INPUT", model="m"), violations(("inputs[0].shape", "too long"), ("model", "empty"))],
        {
            "reason": "BAD_INPUT",
            "metadata": {"model": "m"},
            "violations": (
                errors.FieldViolation("inputs[0].shape", "too long"),
                errors.FieldViolation("model", "empty"),
            ),
        },
    ),
    "retry delay": (
        "RESOURCE_EXHAUSTED",
        [error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))],
        {"retry_delay": 0.25},
    ),
    "retry at once": (
        "RESOURCE_EXHAUSTED",
        [error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration())],
        {"retry_delay": 0.0},
    ),
    "resource": (
        "NOT_FOUND",
        [error_details_pb2.ResourceInfo(resource_type="model", resource_name="resnet")],
        {"resource": "resnet"},
    ),
    "the server's own request id": ("INTERNAL", [error_info("", request_id="server-7")], {"request_id": "server-7"}),
    "a reason of somebody else's": (
        "INTERNAL",
        [error_details_pb2.ErrorInfo(reason="MODEL_RUN_FAILED", domain="example.com", metadata={"request_id": "9"})],
        {"reason": "", "metadata": {}, "request_id": "a reason of somebody else's"},
    ),
    "no details": (
        "INTERNAL",
        [],
        {
            "reason": "",
            "metadata": {},
            "violations": (),
            "retry_delay": None,
            "request_id": "no details",
            "resource": None,
        },
    ),
    "unknown details": ("INTERNAL", [error_details_pb2.Help(), error_info("KNOWN")], {"reason": "KNOWN"}),
}


def packed(message):
    packet = any_pb2.Any()
    packet.Pack(message)
    return packet


def abort_as_asked(request, context):
    """End the call with the status, or the entry of DETAILS, that request_id names."""
    wanted = inference_service_pb2.PredictRequest.FromString(request).request_id
    code, details = (wanted, ()) if wanted in CLASSES else DETAILS[wanted][:2]
    status = status_pb2.Status(code=grpc.StatusCode[code].value[0], message="it says", details=map(packed, details))
    context.abort_with_status(rpc_status.to_status(status))


INPUTS = {"x": np.zeros(1, np.float32)}


def raised_by_client(target, **arguments):
    with onnxserve.Client(target, retries=0) as client, pytest.raises(errors.OnnxserveError) as caught:
        client.predict("m", INPUTS, **arguments)
    return caught.value


def raised_by_async_client(target, **arguments):
    async def call():
        async with onnxserve.AsyncClient(target, retries=0) as client:
            await client.predict("m", INPUTS, **arguments)

    with pytest.raises(errors.OnnxserveError) as caught:
        asyncio.run(call())
    return caught.value


both_clients = pytest.mark.parametrize("raised", [raised_by_client, raised_by_async_client])


@both_clients
@pytest.mark.parametrize("code", CLASSES)
def test_a_status_code_is_raised_as_its_class(serve, raised, code):
    error = raised(serve(abort_as_asked), request_id=code)
    assert type(error) is CLASSES[code]
    assert (error.code, error.message, error.request_id) == (grpc.StatusCode[code], "it says", code)
    assert isinstance(error.__cause__, grpc.RpcError)


@both_clients
@pytest.mark.parametrize("case", DETAILS)
def test_the_details_of_a_status_are_attributes(serve, raised, case):
    error = raised(serve(abort_as_asked), request_id=case)
    assert {name: getattr(error, name) for name in DETAILS[case][2]} == DETAILS[case][2]


@both_clients
def test_a_failed_model_run_is_an_internal_error_with_a_class_of_its_own(serve, raised, monkeypatch):
    monkeypatch.setitem(DETAILS, "run", ("INTERNAL", [error_info("MODEL_RUN_FAILED")], {}))
    error = raised(serve(abort_as_asked), request_id="run")
    assert type(error) is errors.ModelRunFailed
    assert isinstance(error, errors.Internal)


def with_detail(kind, value):
    """A status with one detail, of which the bytes are given."""
    detail = any_pb2.Any(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=value)
    return status_pb2.Status(code=13, message="the status", details=[detail]).SerializeToString()


FOR_EVER = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1 << 62)).SerializeToString()


@both_clients
@pytest.mark.parametrize(
    "blob",
    [
        b"\xff\xff",
        status_pb2.Status(code=3, message="another").SerializeToString(),
        with_detail(error_details_pb2.ErrorInfo, b"\xff\xff"),
        with_detail(error_details_pb2.RetryInfo, FOR_EVER),
    ],
    ids=["not a status", "another status", "a detail that is broken", "a delay without end"],
)
def test_details_that_are_broken_or_contradict_the_status_do_not_hide_it(serve, raised, blob):
    def abort(_, context):
        context.set_trailing_metadata([("grpc-status-details-bin", blob)])
        context.abort(grpc.StatusCode.INTERNAL, "the status")

    error = raised(serve(abort))
    assert (type(error), error.message) == (errors.Internal, "the status")


@both_clients
def test_a_server_that_cannot_be_reached_is_unavailable(raised):
    error = raised("unix:/nonexistent/socket")
    assert type(error) is errors.Unavailable


@both_clients
def test_a_timeout_that_passes_is_a_deadline_exceeded(serve, raised):
    def answer_too_late(_, context):
        left = threading.Event()
        if context.add_callback(left.set):
            left.wait(30)
        return b""

    error = raised(serve(answer_too_late), timeout=0.1)
    assert type(error) is errors.DeadlineExceeded


def test_an_error_reads_as_its_message_then_one_line_a_violation():
    shape = errors.FieldViolation("inputs[0].shape", "too long")
    error = errors.InvalidArgument(grpc.StatusCode.INVALID_ARGUMENT, "bad request", violations=(shape,))
    assert str(error) == "bad request\n  inputs[0].shape: too long"


def test_a_message_that_is_its_only_violation_is_read_once():
    shape = errors.FieldViolation("inputs[0].shape", "too long")
    error = errors.InvalidArgument(grpc.StatusCode.INVALID_ARGUMENT, "inputs[0].shape: too long", violations=(shape,))
    assert str(error) == "inputs[0].shape: too long"


def test_an_error_survives_pickling():
    error = errors.ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_delay=0.5, metadata={"a": "b"})
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), vars(back)) == (type(error), vars(error))
