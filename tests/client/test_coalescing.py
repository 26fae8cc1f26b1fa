"""Concurrent calls that travel together, against a real gRPC server that does what each test needs."""

import asyncio
import contextlib
import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import onnxserve
from onnxserve import _base, _coalescing, errors
from onnxserve._call import PredictCall
from onnxserve._coalescing import Batch, Waiter
from onnxserve._joining import Spec
from onnxserve._models import model_info
from onnxserve._wire import predict_request
from onnxserve.tensor import STRING, decode, encode
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2
from support.waiting import until

FLOAT, INT64, BOOL = tensor_pb2.DATA_TYPE_FLOAT, tensor_pb2.DATA_TYPE_INT64, tensor_pb2.DATA_TYPE_BOOL
PREDICT = "/onnxserve.v1.InferenceService/Predict"
GET_MODEL = "/onnxserve.v1.ModelService/GetModel"
FOR_EVER = 60.0  # longer than any test waits


def spec(name, *axes, dtype=FLOAT, **fields):
    shape = [
        tensor_pb2.Dimension(size=a) if isinstance(a, int) else tensor_pb2.Dimension(size=-1, name=a) for a in axes
    ]
    return tensor_pb2.TensorSpec(name=name, data_type=dtype, shape=shape, **fields)


def description(inputs=(), outputs=(), **batching):
    """A Model message: y = 2 x, float32 [batch, 2], unless told otherwise."""
    limits = {"enabled": True, "max_rows": 64, "max_queue_rows": 4096, "max_queue_bytes": 1 << 28}
    return model_service_pb2.Model(
        name="m",
        version="1",
        inputs=inputs or [spec("x", "batch", 2)],
        outputs=outputs or [spec("y", "batch", 2)],
        batching=model_service_pb2.Batching(**limits | batching),
    )


def row(value):
    return np.full((1, 2), value, np.float32)


class Server:
    """Doubles x; what it is asked is kept, and answered only while `open` is set."""

    def __init__(self):
        self.model = description()
        self.open = threading.Event()
        self.open.set()
        self.requests, self.messages, self.asked = [], [], []
        self.before = 0
        self._contexts = []
        self.refuse = lambda rows, context: None
        self.version = "1"
        self.compute = lambda x: 2 * x

    def predict(self, message, context):
        request = inference_service_pb2.PredictRequest.FromString(message)
        self.messages.append(message)
        self.requests.append(request)
        self._contexts.append(context)
        assert self.open.wait(FOR_EVER)
        x = decode(request.inputs[0])
        self.refuse(x.shape[0] if x.ndim else 1, context)
        return inference_service_pb2.PredictResponse(
            model=request.model,
            version=self.version,
            request_id=request.request_id,
            outputs=[encode("y", self.compute(x))],
            receipt=inference_service_pb2.Receipt(batch_rows=len(x), batch_requests=1),
        ).SerializeToString()

    def get_model(self, message, context):
        self.asked.append(message)
        if self.model is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "what is a model?")
        return model_service_pb2.GetModelResponse(model=self.model).SerializeToString()

    def left(self, index):
        """Whether the caller of a request has left."""
        return not self._contexts[index].is_active()

    @property
    def further(self):
        """The requests that came after those of busy()."""
        return self.requests[self.before :]

    @property
    def rows(self):
        """How many rows each of those had."""
        return [request.inputs[0].shape[0] for request in self.further]


@pytest.fixture
def server():
    doubler = Server()

    class Handler(grpc.GenericRpcHandler):
        def service(self, call):
            method = {PREDICT: doubler.predict, GET_MODEL: doubler.get_model}.get(call.method)
            return grpc.unary_unary_rpc_method_handler(method) if method else None

    running = grpc.server(ThreadPoolExecutor(32))
    running.add_generic_rpc_handlers([Handler()])
    doubler.address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    doubler.stop = lambda: running.stop(0).wait()
    running.start()
    yield doubler
    doubler.open.set()
    doubler.stop()


class Threads:
    """Calls a server from threads. Calls that wait for others do so until the test lets them go."""

    def __init__(self, server, **options):
        self.client = onnxserve.Client(server.address, **options)
        self.client._coalescer.max_wait = FOR_EVER
        self.pool = ThreadPoolExecutor(80)

    def start(self, x, **options):
        """Start a call and return its future."""
        return self.pool.submit(self.client.predict, "m", {"x": np.asarray(x)}, **{"timeout": FOR_EVER} | options)

    def close(self):
        self.client.close()
        self.pool.shutdown()


class Tasks:
    """Calls a server from tasks of one event loop, which has a thread of its own."""

    def __init__(self, server, **options):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

        async def connect():
            return onnxserve.AsyncClient(server.address, **options)

        self.client = self.run(connect())
        self.client._coalescer.max_wait = FOR_EVER

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(FOR_EVER)

    def start(self, x, **options):
        """Start a call and return its future."""
        call = self.client.predict("m", {"x": np.asarray(x)}, **{"timeout": FOR_EVER} | options)
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def close(self):
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(params=[Threads, Tasks])
def calls(request, server):
    """Either client, which knows the model unless told otherwise; nothing must be left in its books."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(connected(request.param, server, **options))


@contextlib.contextmanager
def connected(kind, server, known=True, **options):
    made = kind(server, **options)
    if known:
        made.client._coalescer.learn("m", None, model_info(server.model))
    yield made
    server.open.set()
    until(lambda: not made.client._coalescer._groups)
    made.close()


@pytest.fixture
def threads(server):
    with connected(Threads, server) as made:
        yield made


@pytest.fixture
def tasks(server):
    with connected(Tasks, server) as made:
        yield made


def waiting(calls):
    return sum(len(group.waiting) for group in calls.client._coalescer._groups.values())


@contextlib.contextmanager
def busy(server, calls, x=None):
    """Keep four calls out until the block ends; what is started in the block, and like them, waits."""
    server.open.clear()
    server.before = len(server.requests) + 4
    first = [calls.start(row(-number) if x is None else x) for number in range(4)]
    until(lambda: len(server.requests) == server.before)
    yield first
    server.open.set()


def start_waiting(calls, *xs, **options):
    """Start calls that wait, one after the other, in this order."""
    started = []
    for number, x in enumerate(xs, waiting(calls) + 1):
        started.append(calls.start(x, **options))
        until(lambda number=number: waiting(calls) == number)
    return started


def values(started):
    return [call.result(FOR_EVER)["y"].tolist() for call in started]


def doubled(*xs):
    return [(2 * np.asarray(x)).tolist() for x in xs]


# Together


def test_calls_that_wait_travel_as_one_and_each_gets_its_own_rows(server, calls):
    calls = calls()
    xs = [np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + rows for rows in (1, 3, 0, 2)]
    with busy(server, calls) as first:
        together = start_waiting(calls, *xs)
    assert values(together) == doubled(*xs)
    assert values(first) == doubled(row(0), row(-1), row(-2), row(-3))
    assert server.rows == [6]
    answers = [call.result() for call in together]
    assert {answer.receipt.batch_rows for answer in answers} == {6}
    assert {(answer.model, answer.version) for answer in answers} == {("m", "1")}
    ids = {answer.request_id for answer in answers}
    assert len(ids) == 4
    assert not ids & {request.request_id for request in server.requests}


def test_the_parts_of_an_answer_are_read_only_views_of_it(server, calls):
    calls = calls()
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    one, other = (call.result(FOR_EVER)["y"] for call in together)
    assert one.base is not None
    assert not one.flags.writeable
    assert other.__array_interface__["data"][0] - one.__array_interface__["data"][0] == one.nbytes


def test_what_an_input_is_changed_to_while_it_waits_is_not_sent(server, calls):
    calls = calls()
    x = row(1)
    with busy(server, calls):
        together = start_waiting(calls, x, row(2))
        x[:] = 99
    assert values(together) == doubled(row(1), row(2))


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_lone_caller_sends_what_it_always_has(server, calls, coalesce):
    calls = calls(coalesce=coalesce)
    for options in ({}, {"request_id": "mine"}, {"outputs": ["y"], "version": "1", "priority": 3}):
        answer = calls.start(row(5), **options).result(FOR_EVER)
        call = PredictCall(model="m", inputs={"x": row(5)}, **options)
        assert server.messages[-1] == predict_request(call, answer.request_id)
    assert server.asked == []


def test_without_coalescing_each_call_is_a_request(server, calls):
    calls = calls(coalesce=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(10)]
        until(lambda: len(server.further) == 10)
    assert values(more) == doubled(*map(row, range(10)))
    assert server.rows == [1] * 10


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (row(1), {"priority": 1}),
        (row(1), {"outputs": ["y"]}),
        (row(1), {"version": "1"}),
        (row(1).astype(np.float64), {}),
    ],
    ids=["priority", "outputs", "version", "type"],
)
def test_calls_that_ask_for_something_else_do_not_wait(server, calls, x, options):
    calls = calls()
    with busy(server, calls):
        other = calls.start(x, **options)
        until(lambda: len(server.further) == 1)
    assert values([other]) == doubled(x)


def test_a_call_with_a_request_id_of_its_callers_is_sent_under_it_at_once(server, calls):
    calls = calls()
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
        named = calls.start(row(3), request_id="mine")
        until(lambda: len(server.further) == 1)
    assert named.result(FOR_EVER).request_id == "mine"
    assert values(together) == doubled(row(1), row(2))
    assert [request.request_id for request in server.requests].count("mine") == 1


def test_one_that_waits_for_itself_goes_as_it_always_has(server, calls):
    calls = calls()
    with busy(server, calls):
        (alone,) = start_waiting(calls, row(7))
    answer = alone.result(FOR_EVER)
    assert server.messages[-1] == predict_request(PredictCall(model="m", inputs={"x": row(7)}), answer.request_id)


# What the model allows


def test_no_more_rows_are_joined_than_a_run_takes_and_all_that_waits_is_sent(server, calls):
    server.model = description(max_rows=8)
    calls = calls()
    xs = [np.full((rows, 2), rows, np.float32) for rows in (3, 4, 2, 4, 4)]
    with busy(server, calls):
        together = start_waiting(calls, *xs)
    assert values(together) == doubled(*xs)
    assert sorted(server.rows) == [4, 6, 7]


@pytest.mark.parametrize("limits", [{"max_rows": 8}, {"max_queue_rows": 8}, {"max_queue_bytes": 100}])
def test_a_request_that_is_too_large_for_two_waits_for_nobody(server, calls, limits):
    server.model = description(**limits)
    calls = calls()
    with busy(server, calls):
        large = calls.start(np.ones((7, 2), np.float32))
        until(lambda: len(server.further) == 1)
    assert values([large]) == doubled(np.ones((7, 2)))


def test_a_joined_request_stays_within_the_clients_own_limit(server, calls):
    server.model = description([spec("x", "batch", "n")], [spec("y", "batch", "n")])
    calls = calls(max_message_bytes=8000)
    xs = [np.full((1, 400), number, np.float32) for number in range(4)]
    with busy(server, calls, xs[0]):
        together = start_waiting(calls, *xs, *xs)
    assert values(together) == doubled(*xs, *xs)
    assert max(map(len, server.messages)) < 4000 + 200


def test_a_model_that_is_not_batched_is_called_one_by_one(server, calls):
    server.model = description(enabled=False)
    calls = calls(known=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(6)]
        until(lambda: len(server.further) == 6)
    assert values(more) == doubled(*map(row, range(6)))
    assert len(server.asked) == 1


def test_a_server_that_does_not_describe_its_model_is_called_one_by_one(server, calls):
    server.model = None
    calls = calls(known=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(6)]
        until(lambda: len(server.further) == 6)
    assert values(more) == doubled(*map(row, range(6)))
    assert len(server.asked) == 1


def test_the_model_is_asked_for_once_and_only_when_there_is_something_to_join(server, calls):
    calls = calls(known=False)
    with busy(server, calls):
        assert server.asked == []
        third = calls.start(row(3))
        until(lambda: len(server.further) == 1)
        until(lambda: isinstance(calls.client._coalescer._specs["m", None], Spec))
        together = start_waiting(calls, row(4), row(5))
    assert values([third, *together]) == doubled(row(3), row(4), row(5))
    assert len(server.asked) == 1
    assert sorted(server.rows) == [1, 2]


def test_what_another_version_answered_is_asked_again_alone_and_the_version_is_asked_for(server, calls, monkeypatch):
    """The new version does not compute row by row, and nothing but its name says so."""
    monkeypatch.setattr(_coalescing, "_PAUSE", 0.0)
    calls = calls()
    server.version, server.compute = "2", lambda x: x - x.mean(axis=0)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == [row(0).tolist()] * 2
    assert {call.result().version for call in together} == {"2"}
    assert server.rows == [2, 1, 1]
    with busy(server, calls):
        alone = calls.start(row(3))
        until(lambda: server.asked)
    assert values([alone]) == [row(0).tolist()]


# One caller's trouble


def test_a_timeout_that_passes_while_a_call_waits_is_its_own(server, calls):
    calls = calls()
    with busy(server, calls):
        (short,) = start_waiting(calls, row(1), timeout=1.5)
        together = start_waiting(calls, row(2), row(3))
        with pytest.raises(errors.DeadlineExceeded) as caught:
            short.result(FOR_EVER)
    assert (caught.value.message, caught.value.violations) == ("Deadline Exceeded", ())
    assert caught.value.request_id
    assert values(together) == doubled(row(2), row(3))


def test_a_timeout_that_passes_while_a_joined_request_is_out_is_its_own(server, calls):
    calls = calls()
    with busy(server, calls):
        (short,) = start_waiting(calls, row(1), timeout=1.5)
        together = start_waiting(calls, row(2), row(3))
        flush(calls)
        until(lambda: len(server.further) == 1)
        with pytest.raises(errors.DeadlineExceeded, match="Deadline Exceeded"):
            short.result(FOR_EVER)
    assert values(together) == doubled(row(2), row(3))
    assert server.rows == [3]


def flush(calls):
    """Send what waits, as when the patience of the first is over."""
    (waiter,) = (m for group in calls.client._coalescer._groups.values() for m in group.waiting if m.is_first)
    if isinstance(calls, Tasks):
        calls.loop.call_soon_threadsafe(calls.client._coalescer.flush, waiter)
    else:
        calls.client._coalescer.flush(waiter)


def test_timeouts_of_all_lengths_travel_together_for_as_long_as_the_longest(server, calls):
    calls = calls()
    timeouts = []
    predict = server.predict

    def keep(message, context):
        timeouts.append(context.time_remaining())
        return predict(message, context)

    server.predict = keep
    with busy(server, calls):
        together = [start_waiting(calls, row(n), timeout=t)[0] for n, t in enumerate((30.0, 50.0, 40.0))]
    assert values(together) == doubled(*map(row, range(3)))
    assert 40 < timeouts[-1] <= 50
    with busy(server, calls):
        together = [start_waiting(calls, row(n), timeout=t)[0] for n, t in enumerate((30.0, None, 40.0))]
    assert values(together) == doubled(*map(row, range(3)))
    assert timeouts[-1] is None or timeouts[-1] > 1e6


def test_a_call_with_little_time_does_not_wait(server, calls, monkeypatch):
    monkeypatch.setattr(_base, "MIN_TIMEOUT", 50.0)
    calls = calls()
    with busy(server, calls):
        short = calls.start(row(1), timeout=49.0)
        until(lambda: len(server.further) == 1)
    assert values([short]) == doubled(row(1))


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_leaves_no_time_is_refused_as_ever(server, calls, timeout):
    calls = calls()
    with busy(server, calls):
        (call,) = [calls.start(row(1), timeout=timeout)]
        with pytest.raises(ValueError, match="above 0"):
            call.result(FOR_EVER)


@pytest.mark.parametrize(
    "x",
    [np.array([["a", 1]], dtype=object), np.array([["a", "\ud800"]], dtype=object)],
    ids=["a number", "half a surrogate"],
)
def test_an_array_that_holds_no_text_fails_alone(server, calls, x):
    server.model = description([spec("x", "batch", 2, dtype=STRING)], [spec("y", "batch", 2, dtype=STRING)])
    calls = calls()
    good = np.array([["a", "été"]])
    with busy(server, calls, good):
        together = start_waiting(calls, good, np.array([[b"b", b"c"]]))
        bad = calls.start(x)
        with pytest.raises((TypeError, UnicodeEncodeError)):
            bad.result(FOR_EVER)
    assert values(together) == [[["aa", "étéété"]], [["bb", "cc"]]]
    assert server.rows == [2]


@pytest.mark.parametrize(
    ("dtype", "x"),
    [
        (FLOAT, np.array(1.0, np.float32)),
        (FLOAT, np.ones((1, 3), np.float32)),
        (FLOAT, np.ones((1, 2, 1), np.float32)),
        (FLOAT, np.ones((1, 2), np.float64)),
        (FLOAT, np.ones((1, 2), ">f4")),
        (STRING, np.array([[b"\xff", b"a"]], dtype=object)),
        (BOOL, np.array([[1, 2]], np.uint8).view(bool)),
    ],
    ids=["scalar", "another row", "another rank", "another type", "big-endian", "no UTF-8", "no bool"],
)
def test_a_request_that_a_server_might_refuse_goes_alone(server, calls, dtype, x):
    server.model = description([spec("x", "batch", 2, dtype=dtype)], [spec("y", "batch", 2, dtype=dtype)])
    calls = calls()
    server.open.clear()
    out = [calls.start(x) for _ in range(8)]
    until(lambda: len(server.requests) == 8)
    server.open.set()
    for call in out:
        call.exception(FOR_EVER)  # this server knows no bounds, but it cannot read text that is none


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


def test_closing_the_client_ends_what_waits(server, calls):
    calls = calls()
    with busy(server, calls) as first:
        together = start_waiting(calls, row(1), row(2))
        flush(calls)
        until(lambda: len(server.further) == 1)
        together += start_waiting(calls, row(3), row(4), row(5))
        if isinstance(calls, Tasks):
            calls.run(calls.client.close())
        else:
            calls.client.close()
        raised = [call.exception(FOR_EVER) for call in first + together]
    assert {type(each) for each in raised} == {errors.Cancelled}
    with pytest.raises(errors.Cancelled):
        calls.start(row(1)).result(FOR_EVER)


def test_what_waits_behind_calls_that_hang_goes_on(server, calls):
    calls = calls()
    calls.client._coalescer.max_wait = 0.01
    with busy(server, calls):
        predict, server.predict = server.predict, None
        done = Server()
        server.predict = done.predict
        together = [calls.start(row(number)) for number in range(1, 6)]
        assert values(together) == doubled(*map(row, range(1, 6)))
        server.predict = predict


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_others(server, tasks):
    with busy(server, tasks):
        leaving, *together = start_waiting(tasks, row(1), row(2), row(3))
        leaving.cancel()
        until(lambda: len(server.further) == 1)  # it was the first: nobody else would have sent them in time
    assert leaving.cancelled()
    assert values(together) == doubled(row(2), row(3))
    assert server.rows == [2]


def test_a_task_that_is_cancelled_while_a_joined_request_is_out_leaves_the_others(server, tasks):
    with busy(server, tasks):
        leaving, *together = start_waiting(tasks, row(1), row(2), row(3))
        flush(tasks)
        until(lambda: len(server.further) == 1)
        leaving.cancel()
    assert leaving.cancelled()
    assert values(together) == doubled(row(2), row(3))


def test_a_joined_request_that_all_have_left_is_given_up(server, tasks):
    with busy(server, tasks):
        together = start_waiting(tasks, row(1), row(2), row(3))
        flush(tasks)
        until(lambda: len(server.further) == 1)
        for call in together:
            call.cancel()
        until(lambda: server.left(-1))


def test_a_thread_that_is_interrupted_while_it_waits_leaves_the_others(server, threads):
    with busy(server, threads):
        together = start_waiting(threads, row(1), row(2))
        main = threading.main_thread().ident
        interrupting = threads.pool.submit(
            lambda: until(lambda: waiting(threads) == 3) and signal.pthread_kill(main, signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt):
            threads.client.predict("m", {"x": row(3)})
        interrupting.result(FOR_EVER)
    assert values(together) == doubled(row(1), row(2))
    assert server.rows == [2]


def test_nothing_is_left_behind_that_only_a_collection_would_free(server, threads):
    server.refuse = lambda rows, context: rows == 3 and context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for xs in ([row(1), row(2)], [row(1), row(2), row(3)]):
            with busy(server, threads):
                together = start_waiting(threads, *xs)
            failed = [call.exception(FOR_EVER) is not None for call in together]
            assert failed == [len(xs) == 3] * len(xs)
            del together
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, Waiter | Batch | onnxserve.OnnxserveError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
