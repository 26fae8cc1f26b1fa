"""A stream that takes requests: their order, its window, cancellations, and requests that are refused."""

import pytest

from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.core import Result
from onnxserve_server.edge import onnxserve_v1
from onnxserve_server.edge.codec import Cancellation
from onnxserve_server.edge.stream_state import Phase
from support.calls import Watching, predict, step
from support.streaming import cancel, error_of


def errors_of(call):
    """Name, code, reason and fields at fault of each reply."""
    responses = map(inference.StreamResponse.FromString, call.replies())
    return [(response.request_id, *error_of(response)) for response in responses]


def test_a_stream_reads_as_soon_as_it_is_opened_and_counts_as_active(stage):
    server = stage()
    call = server.open()
    assert call.is_reading
    assert (call.stream.phase, server.budget.active, server.budget.in_flight) == (Phase.OPEN, 1, 0)


def test_a_quick_reply_waits_for_the_slow_one_before_it(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1", 1, model="other"), predict("2", 2))
    server.run("double")
    assert call.answers() == []
    server.run("other")
    assert call.answers() == [("1", 2.0), ("2", 4.0)]


def test_a_message_that_another_one_follows_at_once_says_so(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1", model="other"), predict("2"), predict("3"))
    server.run("double", 2)
    server.run("other")
    assert len(call.answers()) == 3
    assert call.hints == [True, True, False]


def test_no_message_is_sent_before_the_last_one_is_out(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"))
    server.run("double", 2)
    call.take()
    assert call.is_sending
    call.take()
    assert not call.is_sending


@pytest.mark.parametrize(
    ("message", "request_id", "field"),
    [
        (b"\xff\xff", "", "request"),
        (inference.StreamRequest(), "", "kind"),
        (cancel(""), "", "cancel.request_id"),
        (inference.StreamRequest(predict={"request_id": "r", "timeout": {"seconds": -1}}), "r", "timeout"),
        (step("r", sequence="a" * 129), "r", "sequence.id"),
        (step("r", sequence="", steps=0), "r", "steps.max"),
        (predict("r", sequence={"id": "s"}), "r", "sequence"),
    ],
    ids=["no message", "empty", "nameless cancellation", "timeout", "long name", "no steps", "stateless model"],
)
def test_a_message_that_is_not_valid_is_answered_in_its_turn_and_ends_nothing(stage, message, request_id, field):
    server = stage()
    call = server.open()
    call.bring(predict("1"), message, predict("3"))
    server.run("double", 2)
    (first, *_), (second, code, reason, fields), (third, *_) = errors_of(call)
    assert (first, second, third) == ("1", request_id, "3")
    assert (code, reason, fields) == (3, "INVALID_REQUEST", [field])
    assert call.is_reading


def test_a_request_for_an_unknown_model_is_answered_by_its_name(stage):
    call = stage().open()
    call.bring(predict("1", model="nobody"))
    assert call.answers() == [("1", "MODEL_NOT_FOUND")]


def test_an_unforeseen_failure_is_answered_and_says_nothing_of_itself(stage, caplog):
    server = stage()

    def broken(*_):
        raise RuntimeError("secret")

    server.engine.submit = broken
    call = server.open()
    call.bring(predict("mine"))
    (message,) = call.replies()
    assert error_of(inference.StreamResponse.FromString(message))[:2] == (13, "INTERNAL")
    assert b"secret" not in message
    assert "secret" in caplog.text
    assert "'mine'" in caplog.text


def test_a_result_that_cannot_be_encoded_is_answered_with_an_error(stage, monkeypatch):
    server = stage()
    encode = onnxserve_v1.encode_reply

    def encode_errors(outcome, request_id):
        assert not isinstance(outcome, Result), "a defect"
        return encode(outcome, request_id)

    monkeypatch.setattr(onnxserve_v1, "encode_reply", encode_errors)
    call = server.open()
    call.bring(predict("1"))
    server.run()
    assert call.answers() == [("1", "INTERNAL")]


def test_the_deadline_of_the_call_is_that_of_its_requests(stage, clock):
    server = stage()
    call = server.open(deadline=0.0)  # Unix time: long ago
    call.bring(predict("1"))
    assert call.answers() == [("1", "DEADLINE_EXCEEDED")]


# The window


def test_with_as_many_requests_in_flight_as_may_be_nothing_is_read_until_a_reply_is_sent(stage):
    server = stage(requests=2)
    call = server.open()
    call.bring(predict("1"))
    assert call.is_reading
    call.bring(predict("2"))
    assert not call.is_reading
    server.run()
    assert call.is_reading


def test_a_reply_that_is_not_sent_stays_in_the_window(stage):
    server = stage(requests=2)
    call = server.open()
    call.bring(predict("1"), predict("2"))
    server.run("double", 2)
    call.bring(predict("3"))  # the first reply is on its way, the second waits for it
    assert not call.is_reading
    call.take()
    assert call.is_reading


def test_with_as_many_bytes_in_flight_as_may_be_nothing_is_read(stage):
    size = predict("1").ByteSize()
    server = stage(nbytes=2 * size)
    call = server.open()
    call.bring(predict("1"), predict("2"))
    assert not call.is_reading
    server.run()
    assert call.is_reading


def test_the_bytes_of_replies_that_wait_for_their_turn_count(stage):
    message = predict("1")
    server = stage(nbytes=2 * message.ByteSize() + 1)  # replies are larger than requests
    call = server.open()
    call.bring(predict("1", model="other"), predict("2"))
    call.bring(cancel("nobody"))
    assert call.is_reading
    server.run("double")
    call.bring(cancel("nobody"))
    assert not call.is_reading
    server.run("other")
    call.take()
    assert call.is_reading


def test_a_request_larger_than_the_window_is_taken_when_nothing_is_in_flight(stage):
    server = stage(nbytes=1)
    call = server.open()
    call.bring(predict("1"))
    assert not call.is_reading
    server.run()
    assert call.answers() == [("1", 2.0)]
    assert call.is_reading


def test_streams_that_have_all_there_may_be_wait_for_one_another_and_stop_no_other(stage):
    server = stage(all_requests=2)
    greedy, waiting, modest = server.open(), server.open(), server.open()
    greedy.bring(predict("1"), predict("2"))
    assert not greedy.is_reading
    waiting.bring(predict("3", model="other"))
    assert not waiting.is_reading
    modest.bring(predict("4", model="other"))
    assert server.budget.in_flight == 4
    server.run("double", 2)
    assert len(greedy.answers()) == 2
    assert not waiting.is_reading
    server.run("other")
    assert waiting.answers() == [("3", 2.0)]
    assert modest.is_reading


def test_a_stream_that_ends_wakes_those_that_wait_for_room(stage):
    server = stage(all_requests=2)
    leaving, waiting = server.open(), server.open()
    leaving.bring(predict("1"))
    waiting.bring(predict("2"))
    assert not waiting.is_reading
    leaving.leave()
    assert waiting.is_reading


def test_steps_are_held_while_their_caller_does_not_read(stage):
    server = stage(nbytes=1)
    call = server.open()
    call.bring(step("1", sequence="", steps=4))
    server.run("sum")  # its reply is on its way
    server.run("sum")  # and its bytes are over: the next step is not submitted
    assert server.queued("sum") == 0
    call.take()
    server.run("sum")
    assert server.queued("sum") == 0
    call.take()
    server.run("sum")
    assert [value for _, value in call.answers()] == [1.0, 2.0, 4.0, 8.0]


# Cancellations


def test_a_cancelled_request_is_answered_in_its_turn_and_takes_no_other_along(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"), predict("3"), cancel("2"))
    assert server.queued() == 2
    assert call.answers() == []
    server.run("double", 2)
    assert call.answers() == [("1", 2.0), ("2", "CANCELLED"), ("3", 2.0)]


def test_a_cancellation_is_of_all_requests_of_that_name(stage):
    call = stage().open()
    call.bring(predict("1"), predict("1"), cancel("1"))
    assert call.answers() == [("1", "CANCELLED")] * 2


def test_a_cancellation_ends_steps_after_those_that_were_answered(stage):
    server = stage()
    call = server.open()
    call.bring(step("g", sequence="", steps=9))
    server.run("sum", 2)
    call.bring(cancel("g"))
    assert call.answers() == [("g", 1.0), ("g", 2.0), ("g", "CANCELLED")]
    assert server.queued("sum") == 0


def test_a_cancellation_of_what_is_answered_or_unknown_does_nothing(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    server.run()
    call.bring(cancel("1"), cancel("2"))
    assert call.answers() == [("1", 2.0)]
    assert call.is_reading


# Sequences, observers, protocols


def test_steps_of_a_sequence_go_on_from_one_another(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1), step("2", 2), step("3", 3))
    assert server.queued("sum") == 1  # the others wait for it
    server.run("sum", 3)
    assert call.answers() == [("1", 1.0), ("2", 3.0), ("3", 6.0)]


def test_a_last_step_that_is_refused_ends_its_sequence(stage):
    server = stage()
    call = server.open()
    call.bring(step("1"))
    server.run("sum")
    refused = step("2", end=True)
    refused.predict.model = "double"
    call.bring(refused)
    assert call.answers() == [("1", 1.0), ("2", "INVALID_REQUEST")]
    assert len(server.models["sum"].sequences) == 0


def test_an_observer_sees_each_request_once_and_the_end_of_the_call_by_the_name_of_its_method(stage, clock):
    observer = Watching()
    server = stage(observer=observer)
    call = server.open()
    call.bring(predict("1"), predict("2", model="nobody"), step("3", sequence="", steps=2))
    server.run("double")
    server.run("sum", 2)
    clock.now += 3
    call.half_close()
    assert len(call.answers()) == 4
    assert sorted(observer.answers) == [
        ("Converse", "double", "1", "OK"),
        ("Converse", "nobody", "2", "NOT_FOUND"),
        ("Converse", "sum", "3", "OK"),
    ]
    assert observer.calls == [("Converse", "OK", 3.0)]


class Words:
    """The codec of another protocol: "NAME" doubles NAME's length, "!NAME" cancels; replies are "NAME OUTCOME"."""

    @staticmethod
    def decode_message(message):
        text = message.decode()
        return Cancellation(text[1:]) if text.startswith("!") else Word(text)

    @staticmethod
    def encode_reply(outcome, request_id):
        said = outcome.outputs[0][1].item() if isinstance(outcome, Result) else outcome.reason
        return f"{request_id} {said}".encode()


class Word:
    model, version, ended_sequence = "double", "", ""

    def __init__(self, text):
        self.request_id = text

    def read(self, deadline, clock):
        request = predict(self.request_id, len(self.request_id)).SerializeToString()
        return onnxserve_v1.decode_message(request).read(deadline, clock)


def test_a_stream_speaks_the_protocol_of_its_codec(stage):
    server = stage(codec=Words)
    call = server.open()
    call.bring(b"one", b"three", b"seven", b"!three")
    server.run("double", 2)
    assert call.replies() == [b"one 6.0", b"three CANCELLED", b"seven 10.0"]
