"""Errors of joined requests: some are every caller's, the others each caller's own."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from onnxserve import errors
from onnxserve._retrying import RetryPolicy
from onnxserve.tensor import decode, encode
from onnxserve.testing._status import abort
from onnxserve.v1 import inference_service_pb2, tensor_pb2
from support.coalescing import FOR_EVER, Tasks, busy, doubled, row, start_waiting, values
from support.waiting import until


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_error_that_concerns_all_is_raised_for_each_under_its_own_name(server, calls, code, error):
    calls = calls(retries=0)

    def refuse(rows, context):
        if rows > 1:
            request_id = server.requests[-1].request_id
            info = error_details_pb2.ErrorInfo(reason="R", domain="onnxserve", metadata={"request_id": request_id})
            status = status_pb2.Status(code=code.value[0], message="no")
            status.details.add().Pack(info)
            context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
            context.abort(code, "no")

    server.refuse = refuse
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2), row(3))
    raised = [call.exception(FOR_EVER) for call in together]
    assert [type(each) for each in raised] == [error] * 3
    assert {(each.code, each.message, each.reason) for each in raised} == {(code, "no", "R")}
    names = [each.request_id for each in raised]
    assert len({*names}) == 3
    assert [each.metadata["request_id"] for each in raised] == names
    assert not {*names} & {request.request_id for request in server.requests}
    assert len(server.further) == 1


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
    ],
    ids=lambda code: code.name,
)
def test_after_any_other_error_each_is_sent_alone_and_gets_its_own_outcome(server, calls, code):
    calls = calls()

    def refuse(rows, context):
        if rows > 1:
            context.abort(code, "not all of you")
        if decode(server.requests[-1].inputs[0])[0, 0] == 2:
            context.abort(grpc.StatusCode.INTERNAL, "not you")

    server.refuse = refuse
    with busy(server, calls):
        one, bad, other = start_waiting(calls, row(1), row(2), row(3))
    assert values([one, other]) == doubled(row(1), row(3))
    error = bad.exception(FOR_EVER)
    assert (type(error), error.message) == (errors.Internal, "not you")
    assert error.request_id in {request.request_id for request in server.requests}
    assert sorted(server.rows) == [1, 1, 1, 3]


def test_after_a_joined_request_was_refused_there_is_a_rest(server, calls):
    calls = calls()
    server.refuse = lambda rows, context: rows > 1 and context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == doubled(row(1), row(2))
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(4)]
        until(lambda: len(server.further) == 4)
    assert values(more) == doubled(*map(row, range(4)))


@pytest.mark.parametrize(
    "wrong", [{"request_id": "another"}, {"outputs": [encode("y", row(1))] * 2}], ids=["another's", "one output twice"]
)
def test_an_answer_that_contradicts_the_request_is_an_error_of_each(server, calls, wrong):
    calls = calls()
    predict = server.predict

    def contradict(message, context):
        response = inference_service_pb2.PredictResponse.FromString(predict(message, context))
        for name, value in wrong.items():
            response.ClearField(name)
            response.MergeFrom(inference_service_pb2.PredictResponse(**{name: value}))
        return response.SerializeToString()

    with busy(server, calls) as first:
        together = start_waiting(calls, row(1), row(2))
        server.predict = contradict
    raised = [call.exception(FOR_EVER) for call in together]
    assert [type(each) for each in raised] == [errors.InvalidAnswer] * 2
    assert len({each.request_id for each in raised}) == 2
    assert values(first)


@pytest.mark.parametrize("wrong", ["rows", "shape"])
def test_an_answer_that_cannot_be_split_has_each_sent_alone(server, calls, wrong):
    calls = calls()
    predict = server.predict

    def short(message, context):
        response = inference_service_pb2.PredictResponse.FromString(predict(message, context))
        (y,) = response.outputs
        if y.shape[0] > 1:
            y.CopyFrom(encode("y", decode(y)[:-1]) if wrong == "rows" else tensor_pb2.Tensor(name="y", data_type=99))
        return response.SerializeToString()

    server.predict = short
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == doubled(row(1), row(2))


def test_a_server_that_goes_away_is_unavailable_to_all(server, calls):
    calls = calls(retries=0)
    with busy(server, calls) as first:
        together = start_waiting(calls, row(1), row(2), row(3))
        server.stop()
        raised = [call.exception(FOR_EVER) for call in first + together]
    assert {type(each) for each in raised} == {errors.Unavailable}
    assert len({each.request_id for each in raised}) == 7


def test_the_calls_of_a_joined_request_that_broke_are_sent_again_one_by_one_and_once(server, calls):
    """One of them ends every server that runs it: it alone gets the error."""
    calls = calls()
    predict, in_flight, counts = server.predict, [], []

    def end(message, context):
        request = inference_service_pb2.PredictRequest.FromString(message)
        in_flight.append(request)
        counts.append(len(in_flight))
        try:
            response = predict(message, context)
            if 2 in decode(request.inputs[0]):
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            return response
        finally:
            in_flight.remove(request)

    with busy(server, calls):
        one, fatal, other = start_waiting(calls, row(1), row(2), row(3))
        server.predict = end
    assert values([one, other]) == doubled(row(1), row(3))
    error = fatal.exception(FOR_EVER)
    assert isinstance(error, errors.ServersBroke)
    assert sorted(server.rows) == [1, 1, 1, 3]
    assert counts == [1] * 4
    assert error.request_id in {request.request_id for request in server.requests}


def refuse_together(times, delay=0.001):
    """Refuse that many joined requests as a server does that drains, and no other."""
    error = errors.Unavailable(grpc.StatusCode.UNAVAILABLE, "not now", reason="DRAINING", retry_delay=delay)
    refused = []

    def refuse(rows, context):
        if rows > 1 and len(refused) < times:
            refused.append(rows)
            abort(context, error)

    return refuse


def test_a_joined_request_that_a_server_refused_is_sent_again_as_it_is(server, calls):
    calls = calls(retries=1)
    server.refuse = refuse_together(5)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2), row(3))
    assert values(together) == doubled(row(1), row(2), row(3))
    assert server.rows == [3] * 6


def test_a_call_whose_time_is_over_while_its_joined_request_is_refused_says_so(server, calls):
    calls = calls()
    server.refuse = refuse_together(1_000_000, delay=0.5)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2), timeout=2.0)
        (late,) = start_waiting(calls, row(3), timeout=1.0)
    raised = [call.exception(FOR_EVER) for call in (*together, late)]
    assert {(type(each), each.reason) for each in raised} == {(errors.Unavailable, "DRAINING")}
    assert {*server.rows} == {3}


def test_a_client_that_is_closed_ends_the_wait_of_a_joined_request(server, calls):
    calls = calls()
    server.refuse = refuse_together(1_000_000, delay=2.0)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2), timeout=None)
    until(lambda: server.rows == [2])
    calls.run(calls.client.close()) if isinstance(calls, Tasks) else calls.client.close()
    assert {type(call.exception(FOR_EVER)) for call in together} == {errors.Cancelled}


def test_whatever_goes_wrong_with_a_joined_request_no_call_waits_for_ever(server, calls, monkeypatch):
    calls = calls()
    server.refuse = lambda rows, context: rows > 1 and context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    monkeypatch.setattr(RetryPolicy, "judge", lambda *_: 1 / 0)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == doubled(row(1), row(2))


def test_the_calls_of_a_joined_request_that_was_refused_without_a_reason_are_sent_again(server, calls):
    calls = calls()

    def refuse(rows, context):
        if rows > 1:
            context.set_trailing_metadata([("grpc-retry-pushback-ms", "1")])
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    server.refuse = refuse
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == doubled(row(1), row(2))
    assert sorted(server.rows) == [1, 1, 2]
