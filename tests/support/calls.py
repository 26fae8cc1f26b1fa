"""Streaming calls without a network, on an engine without threads: whatever happens, the test makes happen."""

import math
from dataclasses import replace

import numpy as np

from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.edge import onnxserve_v1
from onnxserve_server.edge.calls import Metadata
from onnxserve_server.edge.inflight import StreamBudget, Window
from onnxserve_server.edge.stream import StreamMethod
from onnxserve_server.edge.streams import Streams
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.scheduling.batch import Slot
from support.engines import make_engine
from support.recurrent import X, Y, spec
from support.streaming import error_of


class FakeStreamCall:
    """A calls.StreamCall that stands for the network too. It asserts that its stream keeps to the contract of calls.

    Attributes:
        stream: gets the events of the call.
        is_reading: whether the stream has asked for a message; where not, flow control holds its caller back.
        is_sending: whether a message has been sent that the network has not taken yet.
        hints: for each message, whether another one was to follow at once.
        ended: whether the call is over.
        status: what it ended with; None: OK.
    """

    metadata: Metadata = ()

    def __init__(self, open_stream, deadline=math.inf):
        self.deadline = deadline
        self.is_reading = self.is_sending = self.ended = False
        self.status = None
        self.hints = []
        self._sent = []
        self.stream = open_stream(self)

    def read(self):
        assert not (self.is_reading or self.ended)
        self.is_reading = True

    def send(self, message, *, more):
        assert not (self.is_sending or self.ended)
        self.is_sending = True
        self.hints.append(more)
        self._sent.append(message)

    def end(self, status):
        assert not (self.is_sending or self.ended)
        self.ended, self.status = True, status

    def bring(self, *messages):
        """Bring messages of the caller, each of which the stream must have asked for."""
        for message in messages:
            assert self.is_reading
            self.is_reading = False
            self.stream.on_message(message if isinstance(message, bytes) else message.SerializeToString())

    def half_close(self):
        """Bring the news that the caller sends no more."""
        assert self.is_reading
        self.is_reading = False
        self.stream.on_half_close()

    def leave(self):
        """Bring the news that the caller has left, and that the message which was asked for never comes."""
        self.stream.on_gone()
        if self.is_reading:
            self.half_close()

    def take(self):
        """Have the network take the message that is being sent."""
        assert self.is_sending
        self.is_sending = False
        self.stream.on_sent()

    def replies(self):
        """Have the network take all that is sent; return the messages since the last time."""
        while self.is_sending:
            self.take()
        sent, self._sent = self._sent, []
        return sent

    def answers(self):
        """The same as pairs: the request's name, and the reason of its error or the first element of its output y.

        For a handoff: the sequence's name, and the first element of its state.
        """
        return [_summary(inference.StreamResponse.FromString(message)) for message in self.replies()]


def _summary(response):
    match response.WhichOneof("outcome"):
        case "error":
            return response.request_id, error_of(response)[1]
        case "handoff":
            return response.handoff.sequence, decode(response.handoff.state.tensors[0]).item(0)
        case _:
            return response.request_id, decode(response.response.outputs[0]).item(0)


def predict(request_id, value=1.0, model="double", **fields):
    """A request for one row."""
    x = encode("x", np.full((1, 1), value, np.float32))
    return inference.StreamRequest(predict={"model": model, "inputs": [x], "request_id": request_id}, **fields)


def step(request_id, value=1.0, sequence="s", steps=None, **fields):
    """A step of a sequence of the model sum, or a request of several steps."""
    fields = {"sequence": inference.Sequence(id=sequence, **fields)} if sequence else {}
    if steps is not None:
        fields["steps"] = {"max": steps}
    return predict(request_id, value, model="sum", **fields)


class Watching:
    """An observer that keeps the ends of requests and of streams."""

    def __init__(self):
        self.answers, self.outcomes, self.calls = [], [], []

    def begin(self, metadata, arrived):
        return None

    def on_answer(self, asked, code, outcome):
        self.answers.append((asked.method, asked.model, asked.request_id, code))
        self.outcomes.append(outcome)

    def on_run(self, run):
        pass

    def on_spot_check(self, check):
        pass

    def on_call_end(self, method, code, seconds):
        self.calls.append((method, code, seconds))


class Double:
    """A session: y = 2 x."""

    def run(self, feeds, outputs, handle=None):
        return [feeds["x"] * 2 for _ in outputs]


class Sum:
    """A session whose state s is the sum of all x so far, and y too, which is the x of a further step."""

    def run(self, feeds, outputs, handle=None):
        return [feeds["s"] + feeds["x"] for _ in outputs]


class Stage:
    """Streams on an engine with the models double, other (which doubles too) and sum. Submitted jobs wait for run().

    Attributes:
        engine: a real one.
        models: those that it serves, by their names.
        budget: of the streams.
        streams: the handler.
        calls: those that were opened.
    """

    def __init__(self, clock, *, codec=onnxserve_v1, observer=None, lifetime=math.inf, **window):
        self.engine = make_engine(clock, observer=observer)
        summing, doubling = spec("sum", max_rows=1), {"inputs": (X,), "outputs": (Y,), "state": (), "feedback": ()}
        self.models = {
            "sum": self._serve(summing, Sum()),
            "double": self._serve(replace(summing, name="double", **doubling), Double()),
            "other": self._serve(replace(summing, name="other", **doubling), Double()),
        }
        self.budget = StreamBudget(Window(**{"requests": 100, "nbytes": 1 << 20, "all_requests": 1000} | window))
        method = StreamMethod(name="Converse", codec=codec, engine=self.engine, budget=self.budget, observer=observer)
        self.streams = Streams(method, lifetime=lifetime)
        self.calls = []

    def _serve(self, spec, session):
        model = ServedModel(spec, session, self.engine.services)
        self.engine.table.add(model)
        return model

    def open(self, **fields):
        """Return a new call, with its stream."""
        call = FakeStreamCall(self.streams.open, **fields)
        self.calls.append(call)
        return call

    def queued(self, model="double"):
        """How many jobs of a model wait."""
        return self.models[model].load().queued_jobs

    def run(self, model="double", count=1):
        """Run so many of the jobs that wait, one after the other."""
        served = self.models[model]
        for _ in range(count):
            assert self.queued(model), "nothing waits"
            run = served._runner.run(served._batcher.take(Slot()))
            self.engine.services.flusher.run_then_flush(run.scatter)

    def check_nothing_is_left(self):
        """Abort what is not over; then nothing may be in flight, wait, or be live."""
        self.streams.abort()
        for call in self.calls:
            call.replies()
            assert call.ended
        assert (self.budget.in_flight, self.budget.nbytes, self.budget.active) == (0, 0, 0)
        assert {name: self.queued(name) for name in self.models} == dict.fromkeys(self.models, 0)
        assert len(self.models["sum"].sequences) == 0
