"""How a stream ends: every transition of its phases, and what becomes of requests, replies and states at each."""

import pytest

from onnxserve_server.edge.stream_state import Phase
from onnxserve_server.engine.sequence import LiveSequence
from onnxserve_server.errors import Draining
from support.calls import predict, step
from support.streaming import cancel

UNAVAILABLE, CANCELLED = "UNAVAILABLE", "CANCELLED"


def end_of(call):
    """The code that a call has ended with."""
    assert call.ended
    assert call.stream.phase is Phase.ENDED
    return "OK" if call.status is None else call.status.code.name


# OPEN


def test_a_stream_whose_caller_closes_ends_well_once_all_is_answered(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    call.half_close()
    assert (call.ended, call.stream.phase) == (False, Phase.OPEN)
    server.run()
    assert not call.ended  # the reply is on its way
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == "OK"


def test_a_stream_without_requests_ends_well(stage):
    call = stage().open()
    call.half_close()
    assert end_of(call) == "OK"


def test_a_caller_that_leaves_takes_its_requests_along(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"), step("3"), step("4"), step("5", sequence="", steps=2))
    call.leave()
    assert end_of(call) == CANCELLED
    assert (server.queued("double"), server.queued("sum")) == (0, 0)
    assert call.replies() == []


def test_a_caller_that_leaves_in_the_middle_of_a_message_is_waited_for_by_nothing_but_that(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"), predict("3"))
    server.run("double", 2)
    call.leave()
    assert (call.ended, call.stream.phase, server.queued()) == (False, Phase.ABORTING, 0)
    call.take()
    assert end_of(call) == CANCELLED
    assert len(call.replies()) == 1


def while_submitting(server, do):
    """Have something done after the engine has the next request, and before the stream knows of it."""
    submit = server.engine.submit

    def do_and_submit(request, done):
        server.engine.submit = submit
        job = submit(request, done)
        do()
        return job

    server.engine.submit = do_and_submit


@pytest.mark.parametrize("what", ["on_gone", "abort", "cut_off"])
def test_a_request_that_is_just_being_submitted_is_withdrawn_too(stage, what):
    server = stage()
    call = server.open()
    while_submitting(server, getattr(call.stream, what))
    call.bring(predict("1"))
    assert server.queued() == 0
    assert end_of(call) == (CANCELLED if what == "on_gone" else UNAVAILABLE)
    assert call.replies() == []


def test_a_request_that_is_refused_after_its_caller_has_left_leaves_nothing(stage):
    server = stage()
    call = server.open()

    def leave_and_refuse(request, done):
        call.leave()
        raise Draining("the server is about to stop")

    server.engine.submit = leave_and_refuse
    call.bring(predict("1"))
    assert end_of(call) == CANCELLED
    assert server.budget.in_flight == 0


# STOPPING


def test_a_stream_with_nothing_in_flight_ends_when_it_is_stopped_and_says_why(stage):
    server = stage()
    call = server.open()
    server.streams.stop()
    assert end_of(call) == UNAVAILABLE
    assert call.status.details == "the server is about to stop"


def test_a_stream_that_stops_finishes_what_is_in_flight_and_leaves_new_requests_unanswered(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"))
    server.streams.stop()
    assert (call.ended, call.stream.phase) == (False, Phase.STOPPING)
    call.bring(predict("late"))
    assert server.queued() == 2
    server.run("double", 2)
    assert call.answers() == [("1", 2.0), ("2", 2.0)]
    assert end_of(call) == UNAVAILABLE


def test_a_stream_that_stops_reads_no_further_once_nothing_is_in_flight(stage):
    server = stage(requests=1)
    call = server.open()
    call.bring(predict("1"))
    server.streams.stop()
    server.run()
    assert (call.is_sending, call.is_reading) == (True, False)


def test_a_stream_that_stops_obeys_cancellations(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    server.streams.stop()
    call.bring(cancel("1"))
    assert call.answers() == [("1", "CANCELLED")]
    assert end_of(call) == UNAVAILABLE


def test_a_stream_that_stops_ends_well_if_its_caller_has_closed_and_nothing_was_left_out(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    call.half_close()
    server.streams.stop()
    server.run()
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == "OK"


def test_a_stream_that_left_a_request_out_ends_with_an_error_even_if_its_caller_has_closed(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    server.streams.stop()
    call.bring(predict("late"))
    call.half_close()
    server.run()
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == UNAVAILABLE


def test_streams_that_are_opened_after_the_stop_are_refused_and_counted(stage):
    server = stage()
    server.streams.stop()
    calls = [server.open(), server.open()]
    assert [(end_of(call), call.is_reading) for call in calls] == [(UNAVAILABLE, False)] * 2
    assert server.streams.refused == 2


def test_states_are_handed_over_after_the_last_reply(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1, "a", handoff=True), step("2", 5, "b", handoff=True), step("3", 2, "a", handoff=True))
    server.streams.stop()
    server.run("sum", 3)
    *replies, first, second = call.answers()
    assert replies == [("1", 1.0), ("2", 5.0), ("3", 3.0)]
    assert {first, second} == {("a", 3.0), ("b", 5.0)}
    assert end_of(call) == UNAVAILABLE


def test_an_open_stream_hands_no_state_over(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", handoff=True))
    server.run("sum")
    assert call.answers() == [("1", 1.0)]
    assert call.stream.phase is Phase.OPEN


def test_no_state_is_handed_over_to_a_caller_that_has_closed(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", handoff=True))
    call.half_close()
    server.streams.stop()
    server.run("sum")
    assert call.answers() == [("1", 1.0)]
    assert end_of(call) == "OK"


def test_a_stream_goes_on_while_a_sequence_lives_that_would_be_lost(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1))
    server.run("sum")
    server.streams.stop()
    assert call.answers() == [("1", 1.0)]
    assert (call.ended, call.is_reading, call.stream.phase) == (False, True, Phase.STOPPING)
    call.bring(step("2", 2), step("3", 3, end=True))
    server.run("sum", 2)
    assert call.answers() == [("2", 3.0), ("3", 6.0)]
    assert end_of(call) == UNAVAILABLE


def test_a_request_that_the_engine_refuses_because_it_drains_is_left_out(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    server.engine.drain()
    call.bring(predict("2"))
    assert call.stream.phase is Phase.STOPPING
    server.run()
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == UNAVAILABLE
    assert call.status.details == "the server is about to stop"


def test_beside_a_sequence_that_would_be_lost_a_request_that_the_engine_refuses_is_answered(stage):
    server = stage()
    call = server.open()
    call.bring(step("1"))
    server.run("sum")
    server.engine.drain()
    call.bring(predict("2"))
    assert call.answers() == [("1", 1.0), ("2", "DRAINING")]
    assert (call.ended, call.is_reading, call.stream.phase) == (False, True, Phase.OPEN)


def test_a_stream_whose_model_was_stopped_answers_so_and_goes_on(stage):
    server = stage()
    call = server.open()
    server.models["double"]._batcher.close()
    call.bring(predict("1"), predict("2", model="other"))
    server.run("other")
    assert call.answers() == [("1", "MODEL_STOPPED"), ("2", 2.0)]
    assert (call.is_reading, call.stream.phase) == (True, Phase.OPEN)


def test_a_stream_stops_when_its_lifetime_is_over(stage, clock):
    server = stage(lifetime=100.0)
    call = server.open()
    call.bring(predict("1"))
    due = server.streams.expire(clock.now)
    assert 90 <= due - clock.now <= 110  # not all at the same time
    assert server.streams.expire(due - 0.01) == due
    assert call.stream.phase is Phase.OPEN
    assert server.streams.expire(due) == float("inf")
    assert call.stream.phase is Phase.STOPPING
    server.run()
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == UNAVAILABLE
    assert "open for long" in call.status.details


def test_the_time_at_which_a_stream_is_to_stop_is_watched(stage, clock):
    server = stage(lifetime=100.0)
    watched = []
    server.streams._watch = watched.append
    server.open()
    (due,) = watched
    assert server.streams.expire(clock.now) == due


# CUT_OFF


def test_a_stream_that_is_cut_off_leaves_unanswered_what_is_in_flight(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"), predict("2"), step("3", sequence="", steps=3))
    server.streams.stop()
    server.streams.cut_off(0)
    assert (server.queued("double"), server.queued("sum")) == (0, 0)
    assert call.replies() == []
    assert end_of(call) == UNAVAILABLE


def test_a_stream_with_nothing_in_flight_ends_when_it_is_cut_off(stage):
    server = stage()
    call = server.open()
    server.streams.cut_off(0)
    assert end_of(call) == UNAVAILABLE


def test_a_stream_that_is_cut_off_ends_with_an_error_even_if_its_caller_has_closed(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    call.half_close()
    server.streams.cut_off(0)
    assert end_of(call) == UNAVAILABLE


def test_a_stream_that_is_cut_off_sends_the_replies_that_are_there_and_the_states(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1, handoff=True), step("2", 1, sequence="", steps=9), predict("3"))
    server.run("sum", 3)
    server.streams.stop()
    server.streams.cut_off(0)
    assert (call.ended, call.stream.phase) == (False, Phase.CUT_OFF)
    assert call.answers() == [("1", 1.0), ("2", 1.0), ("2", 2.0), ("s", 1.0)]
    assert end_of(call) == UNAVAILABLE
    assert "--drain-timeout" in call.status.details


def test_a_state_is_handed_over_at_a_cut_off_beside_a_sequence_that_is_lost(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1, "moves", handoff=True), step("2", 2, "stays"))
    server.run("sum", 2)
    assert call.answers() == [("1", 1.0), ("2", 2.0)]
    server.streams.stop()
    assert (call.ended, call.stream.phase) == (False, Phase.STOPPING)
    server.streams.cut_off(0)
    assert call.answers() == [("moves", 1.0)]
    assert end_of(call) == UNAVAILABLE


def test_a_state_that_is_evicted_as_it_is_handed_over_ends_its_stream_all_the_same(stage, monkeypatch):
    server = stage()
    call = server.open()
    call.bring(step("1", handoff=True))
    server.run("sum")
    assert call.answers() == [("1", 1.0)]
    (sequence,) = server.models["sum"].sequences._live
    looks = [sequence.state, None]
    monkeypatch.setattr(LiveSequence, "state", property(lambda _: looks.pop(0)), raising=False)
    server.streams.stop()
    assert call.answers() == [("s", 1.0)]
    assert end_of(call) == UNAVAILABLE


def test_no_reply_is_sent_in_place_of_one_that_was_left_out(stage):
    """Nor is a state handed over that the lost reply's step is in."""
    server = stage()
    call = server.open()
    call.bring(predict("1"), step("2", handoff=True))
    server.run("sum")
    server.streams.stop()
    server.streams.cut_off(0)
    assert call.replies() == []
    assert end_of(call) == UNAVAILABLE


def test_a_step_that_is_cut_off_is_not_in_the_state_that_is_handed_over(stage):
    server = stage()
    call = server.open()
    call.bring(step("1", 1, handoff=True), step("2", 2, handoff=True), step("3", 4, handoff=True))
    server.run("sum")
    server.streams.stop()
    server.streams.cut_off(0)
    assert call.answers() == [("1", 1.0), ("s", 1.0)]


def test_a_cut_off_waits_until_its_streams_have_ended_and_no_longer(stage):
    server = stage()
    call = server.open()
    call.bring(predict("1"))
    server.run()
    server.streams.cut_off(0)
    assert not call.ended  # a message is still being sent, and the time is up
    call.take()
    server.streams.cut_off(60)
    assert end_of(call) == UNAVAILABLE


# ABORTING and ENDED


def in_phase(server, phase):
    """A call in a phase, with a message on its way, and one more reply and one more request behind it."""
    call = server.open()
    call.bring(predict("1"), predict("2"), predict("3"))
    server.run("double", 2)
    match phase:
        case Phase.STOPPING:
            call.stream.stop()
        case Phase.CUT_OFF:
            call.stream.cut_off()
        case Phase.ABORTING:
            call.stream.abort()
    assert call.stream.phase is phase
    return call


@pytest.mark.parametrize("phase", [Phase.OPEN, Phase.STOPPING, Phase.CUT_OFF])
@pytest.mark.parametrize("what", ["abort", "leave"])
def test_an_abort_drops_everything_in_any_phase_but_the_message_that_is_being_sent(stage, phase, what):
    server = stage()
    call = in_phase(server, phase)
    call.stream.abort() if what == "abort" else call.leave()
    assert (call.stream.phase, call.ended, server.queued()) == (Phase.ABORTING, False, 0)
    assert call.answers() == [("1", 2.0)]
    assert end_of(call) == (UNAVAILABLE if what == "abort" else CANCELLED)
    assert server.budget.in_flight == 0


@pytest.mark.parametrize("what", ["stop", "cut_off", "abort", "on_gone", "read_on"])
def test_nothing_stops_an_abort(stage, what):
    call = in_phase(stage(), Phase.ABORTING)
    was_reading = call.is_reading
    getattr(call.stream, what)()
    assert (call.stream.phase, call.is_reading) == (Phase.ABORTING, was_reading)
    call.take()
    assert end_of(call) == UNAVAILABLE
    assert "before this was answered" in call.status.details


@pytest.mark.parametrize("what", ["stop", "cut_off", "abort", "on_gone", "read_on", "on_sent"])
def test_a_stream_that_has_ended_does_nothing_more(stage, what):
    call = stage().open()
    call.half_close()
    getattr(call.stream, what)()
    assert end_of(call) == "OK"
    assert not call.is_reading


def test_a_message_that_comes_after_the_end_is_dropped(stage):
    server = stage()
    call = server.open()
    call.stream.abort()
    assert end_of(call) == UNAVAILABLE
    call.bring(predict("late"))  # it had been asked for
    assert (server.queued(), server.budget.in_flight, call.replies()) == (0, 0, [])


def test_a_cut_off_goes_from_open_too_and_a_stop_does_not_undo_it(stage):
    call = in_phase(stage(), Phase.CUT_OFF)
    call.stream.stop()
    assert call.stream.phase is Phase.CUT_OFF
    assert call.answers() == [("1", 2.0), ("2", 2.0)]
    assert end_of(call) == UNAVAILABLE


def test_the_end_of_a_stream_frees_its_sequences(stage):
    server = stage()
    call = server.open()
    call.bring(step("1"))
    server.run("sum")
    call.half_close()
    assert len(server.models["sum"].sequences) == 1
    assert call.answers() == [("1", 1.0)]
    assert len(server.models["sum"].sequences) == 0
    assert server.budget.active == 0
