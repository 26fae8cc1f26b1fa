"""A sequence's phases: each way from one to another, and each refusal. The runs are made by hand, one at a time."""

import numpy as np
import pytest

from onnxserve_server.core import Step, StepResult, Stop
from onnxserve_server.engine.sequence import LiveSequence, PendingStep, Phase
from onnxserve_server.engine.sequence_state import warn_of_states
from onnxserve_server.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    ModelStopped,
    QueueFull,
    SequencesFull,
    ServeError,
)
from support.engines import make_services
from support.recurrent import ByHand, request, spec


class Sequence:
    """A live sequence, and what became of its steps."""

    def __init__(self, model, services, **fields):
        self.evictions = []
        self.live = LiveSequence(
            model, services, None, handoff=False, on_evicted=lambda _, reason: self.evictions.append(reason), **fields
        )
        model.sequences.open(self.live)
        self.resumes = []
        self.holds = False

    @property
    def phase(self):
        return self.live.phase

    def add(self, value, *, name="x", deadline=np.inf, **step):
        """Add a request; returns its outcomes, which grow, and the request itself."""
        outcomes = []
        pending = PendingStep(
            self.live, request(value, name=name, deadline=deadline), Step("s", **step), outcomes.append, self._hold
        )
        assert self.live.add(pending)
        return outcomes, pending

    def _hold(self, resume):
        if self.holds:
            self.resumes.append(resume)
        return self.holds


@pytest.fixture
def services(clock):
    return make_services(clock)


@pytest.fixture
def hand(services):
    return ByHand(services)


@pytest.fixture
def sequence(hand, services):
    return Sequence(hand.model, services)


def answer(outcome):
    assert isinstance(outcome, StepResult), outcome
    return outcome.result.outputs[0][1].item()


def test_a_step_runs_and_leaves_its_state_to_the_next(sequence, hand):
    assert sequence.phase is Phase.IDLE
    first, _ = sequence.add(2)
    second, _ = sequence.add(4)
    assert sequence.phase is Phase.RUNNING
    assert hand.run() == 1
    assert [answer(outcome) for outcome in first] == [6]
    assert (second, sequence.phase) == ([], Phase.RUNNING)
    hand.run()
    assert [answer(outcome) for outcome in second] == [15]
    assert sequence.phase is Phase.IDLE


def test_steps_of_different_sequences_share_a_run(hand, services):
    sequences = [Sequence(hand.model, services) for _ in range(3)]
    outcomes = [sequence.add(value)[0] for value, sequence in enumerate(sequences)]
    assert hand.run() == 3
    assert [answer(outcome) for (outcome,) in outcomes] == [0, 3, 6]


def test_a_fresh_sequence_is_one_of_which_no_step_has_succeeded(sequence, hand):
    assert sequence.live.is_fresh
    sequence.add(1, name="nothing")
    assert sequence.live.is_fresh
    sequence.add(1)
    assert not sequence.live.is_fresh
    hand.run()
    assert not sequence.live.is_fresh


def test_a_step_that_does_not_fit_is_refused_and_the_next_one_runs(sequence, hand):
    running, _ = sequence.add(2)
    refused, _ = sequence.add(1, name="nothing")
    following, _ = sequence.add(0)
    hand.run()
    assert answer(running[0]) == 6
    assert isinstance(refused[0], InvalidRequest)
    assert sequence.phase is Phase.RUNNING
    hand.run()
    assert answer(following[0]) == 3  # on the state that the first has left


def test_a_step_that_the_queue_does_not_take_ends_with_its_error(services):
    hand = ByHand(services, max_queue_rows=1)
    first, second = Sequence(hand.model, services), Sequence(hand.model, services)
    first.add(1)
    refused, _ = second.add(1)
    assert isinstance(refused[0], QueueFull)
    assert second.phase is Phase.IDLE
    hand.run()
    accepted, _ = second.add(1)
    hand.run()
    assert answer(accepted[0]) == 3


def test_a_defect_ends_the_step_alone(sequence, hand, monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(hand.model.states, "server_inputs", fail)
        failed, _ = sequence.add(1)
    assert type(failed[0]) is ServeError
    assert sequence.phase is Phase.IDLE
    following, _ = sequence.add(1)
    hand.run()
    assert answer(following[0]) == 3


def test_a_step_that_is_withdrawn_as_it_runs_leaves_the_state_as_it_was(sequence, hand):
    sequence.add(2)
    hand.run()
    withdrawn, pending = sequence.add(100)
    pending.withdraw(Cancelled("the caller left"))
    assert isinstance(withdrawn[0], Cancelled)
    assert sequence.phase is Phase.IDLE
    assert hand.model.load().queued_jobs == 0
    following, _ = sequence.add(0)
    hand.run()
    assert answer(following[0]) == 3


def test_a_step_that_is_withdrawn_as_it_waits_is_never_run(sequence, hand):
    sequence.add(2)
    withdrawn, pending = sequence.add(100)
    following, _ = sequence.add(0)
    pending.withdraw(Cancelled("the caller left"))
    assert isinstance(withdrawn[0], Cancelled)
    assert sequence.phase is Phase.RUNNING
    hand.run()
    hand.run()
    assert answer(following[0]) == 3
    pending.withdraw(Cancelled("again"))
    assert len(withdrawn) == 1


def test_a_request_of_several_steps_feeds_its_output_back(sequence, hand):
    outcomes, _ = sequence.add(1, max_steps=3)
    for number in range(3):
        assert sequence.phase is Phase.RUNNING
        hand.run()
        assert [outcome.number for outcome in outcomes] == [*range(number + 1)]
    assert [answer(outcome) for outcome in outcomes] == [3, 10.5, 36.75]
    assert [outcome.final for outcome in outcomes] == [False, False, True]
    assert sequence.phase is Phase.IDLE


def test_a_stop_condition_ends_a_request_before_its_last_step(sequence, hand):
    outcomes, _ = sequence.add(1, max_steps=100, stop=Stop("y", 10.5))
    hand.run()
    hand.run()
    assert [outcome.final for outcome in outcomes] == [False, True]
    assert sequence.phase is Phase.IDLE


def test_a_stop_condition_on_an_unknown_output_is_refused_with_the_outputs_there_are(sequence):
    outcomes, _ = sequence.add(1, max_steps=2, stop=Stop("nothing", None))
    assert isinstance(outcomes[0], InvalidRequest)
    assert "unknown output 'nothing'; the model's outputs are 'y'" in str(outcomes[0])


def test_a_request_is_held_between_two_steps_until_its_caller_has_read(sequence, hand):
    sequence.holds = True
    outcomes, _ = sequence.add(1, max_steps=2)
    waiting, _ = sequence.add(0)
    hand.run()
    assert sequence.phase is Phase.HELD
    assert hand.model.load().queued_jobs == 0
    (resume,) = sequence.resumes
    resume()
    assert sequence.phase is Phase.RUNNING
    resume()  # a second time changes nothing
    assert hand.model.load().queued_jobs == 1
    hand.run()
    assert [outcome.final for outcome in outcomes] == [False, True]
    hand.run()
    assert answer(waiting[0]) == 5.25


def test_a_held_request_that_is_withdrawn_ends_and_the_next_one_runs(sequence, hand):
    sequence.holds = True
    outcomes, pending = sequence.add(1, max_steps=2)
    waiting, _ = sequence.add(0)
    hand.run()
    pending.withdraw(Cancelled("the caller left"))
    assert isinstance(outcomes[-1], Cancelled)
    assert sequence.phase is Phase.RUNNING
    sequence.resumes[0]()
    hand.run()
    assert answer(waiting[0]) == 1.5
    assert len(outcomes) == 2


def test_a_held_request_ends_at_its_deadline(sequence, hand, clock):
    sequence.holds = True
    outcomes, _ = sequence.add(1, max_steps=2, deadline=105.0)
    hand.run()
    assert hand.model.sequences.expire(104.0) == 105.0
    assert sequence.phase is Phase.HELD
    hand.model.sequences.expire(105.0)
    assert isinstance(outcomes[-1], DeadlineExceeded)
    assert sequence.phase is Phase.IDLE


def test_the_last_step_ends_the_sequence(sequence, hand):
    outcomes, _ = sequence.add(1, end=True)
    assert len(hand.model.sequences) == 1
    hand.run()
    assert answer(outcomes[0]) == 3
    assert sequence.phase is Phase.OVER
    assert len(hand.model.sequences) == 0
    assert not sequence.live.add(PendingStep(sequence.live, request(1), Step("s"), outcomes.append, lambda _: False))


def test_a_sequence_that_is_to_end_ends_when_what_runs_has(sequence, hand):
    running, _ = sequence.add(1)
    waiting, _ = sequence.add(1)
    sequence.live.end()
    assert len(hand.model.sequences) == 1
    hand.run()
    hand.run()
    assert (answer(running[0]), answer(waiting[0])) == (3, 4.5)
    assert sequence.phase is Phase.OVER
    assert len(hand.model.sequences) == 0


def test_an_idle_sequence_ends_at_once(sequence, hand):
    sequence.live.end()
    assert sequence.phase is Phase.OVER
    assert len(hand.model.sequences) == 0


def test_a_freed_sequence_gives_its_place_away_while_its_step_runs(hand, services):
    hand = ByHand(services, max_live=1)
    sequence = Sequence(hand.model, services)
    outcomes, _ = sequence.add(1)
    with pytest.raises(SequencesFull):
        Sequence(hand.model, services)
    sequence.live.free()
    Sequence(hand.model, services)
    hand.run()
    assert answer(outcomes[0]) == 3
    assert sequence.phase is Phase.OVER


def test_an_idle_sequence_is_evicted_when_its_time_has_come(sequence, hand, clock):
    sequence.add(1)
    hand.run()
    assert hand.model.sequences.expire(109.0) == 110.0
    assert sequence.phase is Phase.IDLE
    hand.model.sequences.expire(110.0)
    assert (sequence.phase, sequence.live.state) == (Phase.EVICTED, None)
    assert sequence.evictions == ["it was idle for too long"]
    assert (len(hand.model.sequences), hand.model.sequences.evicted) == (0, 1)
    assert not sequence.live.add(PendingStep(sequence.live, request(1), Step("s"), print, lambda _: False))


def test_a_sequence_with_a_step_that_waits_or_is_held_is_not_evicted(sequence, hand, clock):
    sequence.holds = True
    sequence.add(1, max_steps=2)
    for phase in (Phase.RUNNING, Phase.HELD):
        assert sequence.phase is phase
        hand.model.sequences.expire(1e9)
        assert not sequence.live.evict("it was idle for too long")
        assert sequence.phase is phase
        if phase is Phase.RUNNING:
            hand.run()
    assert sequence.evictions == []


def test_a_model_that_stops_ends_what_is_held_and_forgets_the_states(hand, services):
    idle, held, new = (Sequence(hand.model, services) for _ in range(3))
    held.holds = True
    idle.add(1)
    outcomes, _ = held.add(1, max_steps=2)
    hand.run()
    assert (idle.phase, held.phase) == (Phase.IDLE, Phase.HELD)
    hand.model.start()
    hand.model.stop()
    assert isinstance(outcomes[-1], ModelStopped)
    assert {one.phase for one in (idle, held, new)} == {Phase.EVICTED}
    assert idle.evictions == ["its model was stopped"]
    with pytest.raises(ModelStopped):
        Sequence(hand.model, services)


def test_a_sequence_whose_model_stops_as_its_step_is_submitted_is_forgotten_too(sequence, hand, monkeypatch):
    def stop_and_refuse(*_):
        hand.model.sequences.stop()
        raise ModelStopped

    monkeypatch.setattr(hand.model, "submit", stop_and_refuse)
    outcomes, _ = sequence.add(1)
    assert isinstance(outcomes[0], ModelStopped)
    assert sequence.phase is Phase.EVICTED
    assert sequence.evictions == ["its model was stopped"]
    assert len(hand.model.sequences) == 0


def test_the_next_step_of_a_generation_is_refused_by_a_model_that_stops(sequence, hand):
    outcomes, _ = sequence.add(1, max_steps=1000)
    hand.model._batcher.close()
    hand.run()
    assert isinstance(outcomes[0], StepResult)
    assert isinstance(outcomes[1], ModelStopped)
    assert sequence.phase is Phase.IDLE


# A model that was loaded again


@pytest.fixture
def again(services):
    """What is loaded in the place of the model."""
    return ByHand(services, max_live=2)


@pytest.fixture
def follower(hand, again, services):
    return Sequence(hand.model, services, find_successor=lambda old: again.model if old is hand.model else None)


def stop(model):
    model.start()
    model.stop()


def test_an_idle_sequence_goes_on_where_its_model_was_loaded_again(follower, hand, again):
    follower.add(1)
    hand.run()
    stop(hand.model)
    assert (follower.phase, follower.evictions) == (Phase.IDLE, [])
    assert (len(hand.model.sequences), len(again.model.sequences)) == (0, 1)
    outcomes, _ = follower.add(1)
    again.run()
    assert answer(outcomes[0]) == 4.5
    follower.live.free()
    assert len(again.model.sequences) == 0


def test_a_held_request_is_held_where_its_model_was_loaded_again(follower, hand, again, clock):
    follower.holds = True
    outcomes, _ = follower.add(1, max_steps=3, deadline=clock.now + 10)
    hand.run()
    stop(hand.model)
    assert (follower.phase, len(outcomes)) == (Phase.HELD, 1)
    follower.resumes.pop()()
    again.run()
    assert [answer(each) for each in outcomes] == [3, 10.5]
    clock.now += 11
    again.model.sequences.expire(clock.now)
    assert isinstance(outcomes[2], DeadlineExceeded)


def test_the_deadline_of_a_held_request_is_kept_where_its_model_was_loaded_again(follower, hand, again, clock):
    follower.holds = True
    outcomes, _ = follower.add(1, max_steps=3, deadline=clock.now + 10)
    hand.run()
    stop(hand.model)
    assert again.model.sequences.expire(clock.now) == clock.now + 10
    clock.now += 10
    again.model.sequences.expire(clock.now)
    assert isinstance(outcomes[1], DeadlineExceeded)


def test_a_step_that_comes_as_its_model_is_loaded_again_is_run_by_the_new_one(follower, hand, again):
    hand.model._batcher.close()
    outcomes, _ = follower.add(1)
    again.run()
    assert answer(outcomes[0]) == 3
    assert (len(hand.model.sequences), len(again.model.sequences)) == (0, 1)


def test_a_sequence_that_finds_no_place_where_its_model_was_loaded_again_is_evicted(follower, hand, again, services):
    for _ in range(2):
        Sequence(again.model, services)
    stop(hand.model)
    assert (follower.phase, follower.evictions) == (Phase.EVICTED, ["its model was stopped"])
    assert (len(hand.model.sequences), len(again.model.sequences)) == (0, 2)


@pytest.mark.parametrize("end", ["free", "evict"])
def test_a_sequence_that_is_over_takes_no_place_where_its_model_was_loaded_again(follower, hand, again, end):
    follower.live.evict("a test") if end == "evict" else follower.live.free()
    assert not follower.live.follow(hand.model.sequences)
    assert len(again.model.sequences) == 0


def test_a_step_that_finds_its_model_stopped_runs_though_its_sequence_has_gone_on(follower, hand, again, monkeypatch):
    def stop_and_refuse(*_):
        hand.model.sequences.stop()
        raise ModelStopped

    monkeypatch.setattr(hand.model, "submit", stop_and_refuse)
    outcomes, _ = follower.add(1)
    again.run()
    assert answer(outcomes[0]) == 3
    assert (follower.evictions, len(again.model.sequences)) == ([], 1)


def test_a_freed_sequence_runs_what_it_has_where_its_model_was_loaded_again_and_takes_no_place(follower, hand, again):
    follower.holds = True
    outcomes, _ = follower.add(1, max_steps=2)
    hand.run()
    follower.live.free()
    hand.model._batcher.close()
    follower.resumes.pop()()
    again.run()
    assert [answer(each) for each in outcomes] == [3, 10.5]
    assert (follower.phase, len(again.model.sequences)) == (Phase.OVER, 0)


def test_states_that_do_not_fit_memory_are_named_with_the_cure(caplog):
    """A state of the model has 4 bytes."""
    specs = [spec(name="small", max_live=10), spec(name="large", max_live=1 << 20)]
    warn_of_states(specs, left=(4 << 20) + 40)
    assert caplog.messages == []
    warn_of_states(specs, left=(4 << 20) + 39)
    (message,) = caplog.messages
    assert "model large alone allows 1048576 of 4 bytes, 4 MiB: lower sequences.max in its model.yaml" in message
