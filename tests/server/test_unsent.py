"""Answers that are not read: which are given up for others, when, and which are refused."""

import pytest

from onnxserve_server.edge import unsent
from onnxserve_server.edge.unsent import UnsentAnswers
from onnxserve_server.errors import NotReceived

BOUND = 1 << 20  # bytes of memory
PIECE = BOUND // 8 // unsent._OF_CALLS  # bytes of an answer: eight take the bound
LONG, SHORT = unsent._GRACE, unsent._GRACE / 10


class Call:
    """An unsent.Abandonable that notes why it was ended."""

    def __init__(self, peer="a"):
        self._peer = peer
        self.why = ""

    def abandon(self, why):
        self.why = why

    def peer(self):
        return self._peer


@pytest.fixture
def closed():
    return []


@pytest.fixture
def answers(clock, closed):
    return UnsentAnswers(BOUND, closed.append, clock)


def add(answers, number, peer="a"):
    """So many answers that go out now: their calls."""
    calls = [Call(peer) for _ in range(number)]
    for call in calls:
        answers.add(call, PIECE)
    return calls


def given_up(calls):
    return [bool(call.why) for call in calls]


def test_a_caller_that_is_slower_than_others_for_a_moment_loses_no_answer(answers, clock):
    slow = add(answers, 8)
    clock.now += SHORT
    add(answers, 2, "b")
    assert given_up(slow) == [False] * 8


def test_of_answers_that_wait_for_long_the_first_are_given_up_to_the_bound(answers, clock):
    slow = add(answers, 8)
    clock.now += LONG
    later = add(answers, 2, "b")
    assert given_up(slow + later) == [True] * 2 + [False] * 8
    assert "--all-unsent-bytes" in slow[0].why


def test_what_would_exceed_the_bound_by_a_quarter_is_refused_and_gives_up_what_is_old(answers, clock):
    slow = add(answers, 10)
    for check in (lambda: add(answers, 1), lambda: answers.check(PIECE)):
        with pytest.raises(NotReceived, match="--all-unsent-bytes"):
            check()
    answers.check(unsent.COUNTED_FROM - 1)
    assert given_up(slow) == [False] * 10
    clock.now += LONG
    with pytest.raises(NotReceived):
        add(answers, 1)
    assert given_up(slow) == [True] * 2 + [False] * 8
    for call in slow[:2]:
        answers.remove(call)
    add(answers, 1)


def test_a_connection_is_closed_when_what_was_given_up_stays(answers, clock, closed):
    add(answers, 8)
    clock.now += LONG
    add(answers, 2, "b")
    assert not closed
    clock.now += LONG
    answers.make_room()
    assert closed == ["a"]
    answers.make_room()
    assert closed == ["a"]


def test_a_connection_that_lets_go_of_what_was_given_up_stays(answers, clock, closed):
    slow = add(answers, 8)
    clock.now += LONG
    add(answers, 2, "b")
    for call in slow[:2]:
        answers.remove(call)
    clock.now += LONG
    answers.make_room()
    assert closed == []


def test_replies_that_wait_behind_others_have_the_first_given_up_and_soon_without_grace(answers, clock):
    slow = add(answers, 3)
    answers.make_room(1.1)
    assert given_up(slow) == [False] * 3
    answers.make_room(1.3)
    assert given_up(slow) == [True, False, False]
    clock.now += LONG
    answers.make_room(1.1)
    assert given_up(slow) == [True, True, False]


def test_one_answer_may_be_larger_than_all_may_be(answers, clock):
    large = Call()
    answers.add(large, 2 * BOUND)
    clock.now += LONG
    with pytest.raises(NotReceived):
        add(answers, 1)
    assert not large.why
    answers.remove(large)
    assert answers.nbytes == 0
