"""InferenceService.Stream as a caller sees it: many requests on one call, each answered in its place."""

import contextlib
import threading
import time

import grpc
import numpy as np
import psutil
import pytest

from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2 as inference
from support import zoo
from support.streaming import Line, Stub, cancel, error_of
from support.waiting import until

MODELS = {"double": zoo.double(), "slow": zoo.slow(), "scaled": zoo.scaled()}
CONFIGS = {"slow": "batching: {max_rows: 1}", "double": "batching: {max_queue_rows: 100000}"}
SETTINGS = {"stream_requests": 64, "stream_bytes": 1 << 20}


def predict(number, model="double", shape=(1, 3), **fields):
    """A request that is named by a number and carries it as its values."""
    x = encode("x", np.full(shape, number, np.float32))
    return inference.StreamRequest(
        predict=inference.PredictRequest(model=model, inputs=[x], request_id=str(number), **fields)
    )


@pytest.fixture
def line(server):
    with contextlib.ExitStack() as stack:

        def open_line(**kwargs):
            made = Line(server.stub, **kwargs)
            stack.callback(made.call.cancel)
            stack.callback(made.close)
            return made

        yield open_line


def value_of(response):
    """What a model answered, told by its first element."""
    return decode(response.response.outputs[0]).flat[0]


def reason_of(response):
    return error_of(response)[1]


def field_of(response):
    return error_of(response)[2][0]


def test_ten_thousand_requests_are_answered_in_order_and_every_tenth_with_its_own_error(server):
    def requests():
        for number in range(10_000):
            match number % 40:
                case 9:
                    yield predict(number, shape=(1, 4))
                case 19:
                    yield predict(number, model="nobody")
                case 29:
                    yield inference.StreamRequest()
                case 39:
                    yield predict(number, timeout={"seconds": -1})
                case _:
                    yield predict(number)

    answers = list(server.stub.Stream(requests(), timeout=120))
    assert len(answers) == 10_000
    for number, answer in enumerate(answers):
        match number % 40:
            case 9:
                assert (answer.error.code, field_of(answer)) == (3, "inputs[0].shape")
            case 19:
                assert (answer.error.code, reason_of(answer)) == (5, "MODEL_NOT_FOUND")
            case 29:
                assert (answer.error.code, field_of(answer), answer.request_id) == (3, "kind", "")
                continue
            case 39:
                assert (answer.error.code, field_of(answer)) == (3, "timeout")
            case _:
                assert value_of(answer) == 2 * number
        assert answer.request_id == str(number)


def test_requests_of_one_stream_share_runs(server):
    answers = list(server.stub.Stream(iter([predict(number) for number in range(500)]), timeout=60))
    assert max(answer.response.receipt.batch_requests for answer in answers) > 1


def test_an_answer_comes_before_the_caller_has_closed(line):
    stream = line()
    for number in range(3):
        assert value_of(next(stream.send(predict(number)))) == 2 * number
    stream.close()
    assert list(stream.call) == []
    assert stream.call.code() == grpc.StatusCode.OK


def test_a_stream_without_requests_ends_well(server):
    call = server.stub.Stream(iter(()), timeout=10)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK


def test_what_is_no_message_is_answered_and_ends_nothing(server):
    with grpc.insecure_channel(server.address) as channel:
        stream = channel.stream_stream("/onnxserve.v1.InferenceService/Stream")
        raw = list(stream(iter([b"\xff\xff", predict(4).SerializeToString()]), timeout=10))
    bad, good = map(inference.StreamResponse.FromString, raw)
    assert (bad.error.code, field_of(bad)) == (3, "request")
    assert value_of(good) == 8


def test_a_quick_answer_waits_for_the_slow_one_before_it(server, line):
    stream = line()
    with server.occupied():
        stream.send(predict(1, model="slow", shape=(1, 1)), predict(2))
        server.wait_for("slow", lambda load: load.queued_jobs == 1)
        assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
        assert not stream.call.done()
    assert [next(stream).request_id, next(stream).request_id] == ["1", "2"]


def test_a_cancelled_request_is_answered_in_its_place_and_takes_no_other_along(server, line):
    stream = line()
    with server.occupied():
        stream.send(*(predict(number, model="slow", shape=(1, 1)) for number in (1, 2, 3)))
        server.wait_for("slow", lambda load: load.queued_jobs == 3)
        stream.send(cancel("2"))
        server.wait_for("slow", lambda load: load.queued_jobs == 2)
    first, second, third = next(stream), next(stream), next(stream)
    assert [answer.WhichOneof("outcome") for answer in (first, second, third)] == ["response", "error", "response"]
    assert (second.request_id, second.error.code, reason_of(second)) == ("2", 1, "CANCELLED")


def test_a_cancellation_of_nothing_is_told(line):
    answer = next(line().send(cancel("")))
    assert (answer.error.code, field_of(answer)) == (3, "cancel.request_id")


def test_a_cancellation_that_comes_too_late_is_no_error(line):
    stream = line()
    next(stream.send(predict(1)))
    stream.send(cancel("1"), predict(2))
    assert next(stream).request_id == "2"


def test_a_request_of_a_stream_has_its_own_timeout(server, line):
    stream = line()
    with server.occupied():
        stream.send(predict(1, model="slow", shape=(1, 1), timeout={"nanos": 50_000_000}))
        answer = next(stream)
    assert (answer.error.code, reason_of(answer)) == (4, "DEADLINE_EXCEEDED")
    assert value_of(next(stream.send(predict(2)))) == 4


def test_the_deadline_of_the_call_holds_for_all_of_it(server, line):
    with server.occupied():
        stream = line(timeout=0.5).send(predict(1, model="slow", shape=(1, 1)))
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)  # the server may have seen it first, and answered the request
            next(stream)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_caller_that_leaves_takes_its_work_along(server, line):
    with server.occupied():
        stream = line().send(*(predict(number, model="slow", shape=(1, 1)) for number in range(20)))
        server.wait_for("slow", lambda load: load.queued_jobs == 20)
        stream.call.cancel()
        server.wait_for("slow", lambda load: load.queued_jobs == 0)


def test_no_more_than_the_window_is_taken_in(server, line):
    with server.occupied():
        line().send(*(predict(number, model="slow", shape=(1, 1)) for number in range(200)))
        server.wait_for("slow", lambda load: load.queued_jobs == SETTINGS["stream_requests"])
        list(server.stub.Stream(iter([predict(number) for number in range(200)]), timeout=30))  # another is not held up
        assert server.load("slow").queued_jobs == SETTINGS["stream_requests"]


def test_no_more_bytes_than_the_window_are_taken_in(serve):
    size = predict(10, model="slow", shape=(1, 1)).ByteSize()
    server = serve({"slow": zoo.slow()}, {"slow": "batching: {max_rows: 1}"}, stream_bytes=10 * size)
    with server.occupied():
        made = Line(server.stub).send(*(predict(number, model="slow", shape=(1, 1)) for number in range(10, 60)))
        server.wait_for("slow", lambda load: load.queued_jobs == 10)
        made.close()
        list(server.stub.Stream(iter([]), timeout=30))
        assert server.load("slow").queued_jobs == 10
        made.call.cancel()


def test_a_thousand_streams_that_break_off_leave_nothing(server):
    streams = server.app.grpc.streams
    before = psutil.Process().num_threads()
    for turn in range(1000):
        call = server.stub.Stream(iter([predict(number) for number in range(5)]), timeout=30)
        if turn % 3:
            next(call)
        call.cancel()
    until(lambda: not streams._live)
    assert server.app.budget.in_flight == 0
    until(lambda: psutil.Process().num_threads() <= before + 4)


def test_all_streams_together_have_a_bound(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"slow": zoo.slow()}, {"slow": "batching: {max_rows: 1}"})
    with serving(root, all_stream_requests=10) as server, server.occupied():
        lines = [Line(server.stub) for _ in range(4)]
        for made in lines:
            made.send(*(predict(number, model="slow", shape=(1, 1)) for number in range(20)))
        server.wait_for("slow", lambda load: load.queued_jobs >= 10)
        for made in lines:
            made.close()
        assert server.load("slow").queued_jobs <= 10 + len(lines)
        for made in lines:
            made.call.cancel()
        server.wait_for("slow", lambda load: load.queued_jobs == 0)


def test_streams_that_have_all_there_may_be_do_not_stop_another(serve):
    server = serve({"slow": zoo.slow(), "double": zoo.double()}, {"slow": CONFIGS["slow"]}, all_stream_requests=10)
    with server.occupied():
        greedy, modest = Line(server.stub, timeout=30), Line(server.stub, timeout=30)
        greedy.send(*(predict(number, model="slow", shape=(1, 1)) for number in range(20)))
        server.wait_for("slow", lambda load: load.queued_jobs >= 10)
        for number in range(20):
            assert value_of(modest.ask(predict(number))) == 2 * number
        for made in (greedy, modest):
            made.close()
            made.call.cancel()


def test_a_reader_that_stops_reading_holds_up_nobody_else(launch, edge):
    """It has answers of 100 kB each coming; what it does not read stays within the window, here and in its sockets."""
    server = launch({"double": zoo.double()}, "--edge", edge, "--stream-bytes", 1 << 20)
    process = psutil.Process(server.popen.pid)
    stop = threading.Event()

    def endless():
        number = 0
        while not stop.is_set():
            number += 1
            yield predict(number, shape=(8192, 3))

    with grpc.insecure_channel(server.address) as lazy, grpc.insecure_channel(server.address, ()) as channel:
        stuck = Stub(lazy).Stream(endless(), timeout=60)
        next(stuck)
        stream = Stub(channel).Stream
        list(stream(iter([predict(number) for number in range(500)]), timeout=60))
        before = process.memory_info().rss
        end = time.monotonic() + 5
        while time.monotonic() < end:
            answers = list(stream(iter([predict(number) for number in range(500)]), timeout=20))
            assert [value_of(answer) for answer in answers] == [2 * number for number in range(500)]
        assert process.memory_info().rss - before < 32 << 20
        stop.set()
        stuck.cancel()
    assert server.stop()[0] == 0


def test_a_stream_is_finished_and_ended_when_the_server_drains(launch, edge):
    server = launch({"slow": zoo.slow()}, "--edge", edge, configs={"slow": "batching: {max_rows: 1}"})
    with grpc.insecure_channel(server.address) as channel:
        requests = (predict(steps, model="slow", shape=(1, 1)) for steps in (1000, 1001, 1002))
        stream = Line(Stub(channel)).send(*requests)
        call = stream.call
        assert next(call).request_id == "1000"  # after so long a run, the others have come
        code = []
        stopper = threading.Thread(target=lambda: code.append(server.stop()[0]))
        stopper.start()
        assert [next(call).request_id, next(call).request_id] == ["1001", "1002"]
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        stopper.join(60)
        stream.close()
    assert code == [0]
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "about to stop" in raised.value.details()
