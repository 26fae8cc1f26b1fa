"""The thread that wakes up for deadlines. It needs real time: deadlines are a few hundredths of a second away."""

import math
import sys
import threading
import time

import pytest

from onnxserve_server.scheduling.deadlines import DeadlineWatch


class Subscriber:
    """Has deadlines of its own; keeps when it was asked to expire."""

    def __init__(self, *deadlines):
        self._lock = threading.Lock()
        self._deadlines = list(deadlines)
        self.asked = []
        self.empty = threading.Event()

    def add(self, deadline):
        with self._lock:
            self._deadlines.append(deadline)

    def expire(self, now):
        with self._lock:
            self.asked.append(now)
            self._deadlines = [deadline for deadline in self._deadlines if deadline > now]
            if not self._deadlines:
                self.empty.set()
            return min(self._deadlines, default=math.inf)


@pytest.fixture
def watch():
    watch = DeadlineWatch(time.monotonic)
    watch.start()
    yield watch
    watch.stop()


def test_a_subscriber_is_asked_when_a_deadline_passes_and_not_before(watch):
    deadline = time.monotonic() + 0.03
    subscriber = Subscriber(deadline)
    watch.subscribe(subscriber.expire)
    watch.watch(deadline)
    assert subscriber.empty.wait(5)
    assert all(asked >= deadline for asked in subscriber.asked)


def test_an_earlier_deadline_that_comes_later_is_kept(watch):
    now = time.monotonic()
    subscriber = Subscriber(now + 0.03)
    watch.subscribe(subscriber.expire)
    watch.watch(now + 60)
    watch.watch(now + 0.03)
    assert subscriber.empty.wait(5)


def test_every_deadline_is_kept_though_each_is_told_once(watch):
    now = time.monotonic()
    deadlines = [now + 0.02 + 0.007 * i for i in range(10)]
    subscriber = Subscriber(*deadlines)
    watch.subscribe(subscriber.expire)
    for deadline in deadlines:
        watch.watch(deadline)
    assert subscriber.empty.wait(5)


def test_deadlines_that_lie_together_are_handled_in_few_rounds(watch):
    now = time.monotonic()
    subscriber = Subscriber(*(now + 0.02 + i * 1e-6 for i in range(1000)))
    watch.subscribe(subscriber.expire)
    watch.watch(now + 0.02)
    assert subscriber.empty.wait(5)
    assert len(subscriber.asked) <= 2


def test_all_subscribers_are_asked_and_those_who_left_are_not(watch):
    deadline = time.monotonic() + 0.02
    staying, leaving = Subscriber(deadline), Subscriber(deadline)
    watch.subscribe(leaving.expire)
    watch.subscribe(staying.expire)
    watch.unsubscribe(leaving.expire)
    watch.watch(deadline)
    assert staying.empty.wait(5)
    assert leaving.asked == []


def test_no_deadline_is_lost_when_many_threads_name_theirs(watch):
    subscriber = Subscriber(math.inf)
    watch.subscribe(subscriber.expire)
    start = threading.Barrier(4)

    def name_deadlines():
        start.wait()
        for i in range(200):
            deadline = time.monotonic() + 0.0001 * (i % 50)
            subscriber.add(deadline)
            watch.watch(deadline)

    threads = [threading.Thread(target=name_deadlines) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subscriber._deadlines.remove(math.inf)
    last = time.monotonic() + 0.02
    subscriber.add(last)
    watch.watch(last)
    assert subscriber.empty.wait(5)


def test_a_subscriber_that_fails_keeps_no_other_from_its_deadlines(watch, caplog):
    def fail(now):
        raise ZeroDivisionError

    now = time.monotonic()
    subscriber = Subscriber(now + 0.02, now + 0.04)
    watch.subscribe(fail)
    watch.subscribe(subscriber.expire)
    watch.watch(now + 0.02)
    assert subscriber.empty.wait(5)
    assert "ZeroDivisionError" in caplog.text


def test_a_watch_that_was_never_started_can_be_stopped():
    DeadlineWatch(time.monotonic).stop()


def test_subscriptions_from_many_threads_are_all_undone():
    watch, before = DeadlineWatch(time.monotonic), sys.getswitchinterval()
    start = threading.Barrier(8)

    def come_and_go():
        start.wait()
        for _ in range(1000):
            subscriber = Subscriber()
            watch.subscribe(subscriber.expire)
            watch.unsubscribe(subscriber.expire)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert watch._subscribers == ()
