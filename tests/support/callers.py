"""Callers that go on until a test stops them, and the outcomes of their calls."""

import asyncio
import collections
import contextlib
import threading

import numpy as np

from support.waiting import until

_PAUSE = 0.002  # seconds between two calls of a caller: servers that start beside them need the processor, too


class Callers:
    """Threads that each make calls, one after the other, until the block ends or one goes wrong.

    Args:
        pause: seconds between two calls of a caller.

    Attributes:
        answered: how many answers came, by kind of caller.
        errors: what ended a caller before its time.
    """

    def __init__(self, pause=_PAUSE):
        self.answered = collections.Counter()
        self.errors = []
        self._stop = threading.Event()
        self._threads = []
        self._pause = pause

    def add(self, kind, work, count=1):
        """Have `count` threads call work(number of the thread). It ends when numbers() does, and notes its answers."""
        self.answered[kind] = 0
        self._threads += [threading.Thread(target=self._run, args=(kind, work, i)) for i in range(count)]

    def numbers(self):
        """Give the number of each call, from 1, at a moderate pace until the callers are to stop."""
        number = 0
        while not self._stop.wait(self._pause):
            yield (number := number + 1)

    async def asynchronous_numbers(self):
        """The same for a task."""
        number = 0
        while not self._stop.is_set():
            await asyncio.sleep(self._pause)
            yield (number := number + 1)

    def note(self, kind, is_right):
        """Note an answer."""
        assert is_right
        self.answered[kind] += 1

    @contextlib.contextmanager
    def calling(self):
        """Begin, and go on until the block ends; it is entered once every kind has had answers."""
        for thread in self._threads:
            thread.start()
        try:
            self.go_on()
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
                assert not thread.is_alive()

    def go_on(self, more=20):
        """Wait until there are so many more answers of every kind."""
        before = self.answered.copy()
        until(lambda: self.errors or all(self.answered[kind] >= before[kind] + more for kind in before), 60)

    def _run(self, kind, work, number):
        try:
            work(number)
        except BaseException as error:
            self.errors.append((kind, error))


def predictions(callers, client, kind):
    """Unary calls for zoo.double(), no two with the same input."""

    def work(caller):
        for number in callers.numbers():
            x = row(caller, number)
            callers.note(kind, np.array_equal(client.predict("double", x)["y"], 2 * x["x"]))

    return work


def asynchronous_predictions(callers, make_client, kind, tasks):
    """The same from so many tasks of one event loop."""

    async def call(client, task):
        async for number in callers.asynchronous_numbers():
            x = row(task, number)
            callers.note(kind, np.array_equal((await client.predict("double", x))["y"], 2 * x["x"]))

    async def run():
        async with make_client() as client, asyncio.TaskGroup() as group:
            for task in range(tasks):
                group.create_task(call(client, task))

    return lambda _: asyncio.run(run())


def streams(callers, client, kind):
    """One stream() for zoo.double(), whose answers must come in order."""

    def work(caller):
        sent = collections.deque()

        def inputs():
            for number in callers.numbers():
                sent.append(row(caller, number))
                yield sent[-1]

        for answer in client.stream("double", inputs()):
            callers.note(kind, np.array_equal(answer["y"], 2 * sent.popleft()["x"]))
        assert not sent

    return work


def sequences(callers, client, kind):
    """One sequence through zoo.recurrent(), whose state must be that of an undisturbed run."""

    def work(caller):
        state = np.float32(0)
        with client.sequence("recurrent") as sequence:
            for number in callers.numbers():
                value = np.float32((7 * caller + number) % 10)
                state = state / 2 + value
                answer = sequence.step({"x": np.full((1, 2), value)})
                callers.note(kind, answer["y"].tolist() == [[3 * state, 3 * state]])

    return work


def generations(callers, client, kind, steps=20):
    """One sequence through zoo.countdown(), which counts down again and again and adds up the numbers."""

    def work(_):
        total = 0
        with client.sequence("countdown", outputs=["next", "total_out"]) as sequence:
            for _ in callers.numbers():
                answers = list(sequence.generate({"n": np.full((1, 1), steps, np.float32)}, max_steps=steps))
                assert [answer["next"].item() for answer in answers] == [*range(steps - 1, -1, -1)]
                total += sum(range(steps + 1))
                callers.note(kind, answers[-1]["total_out"].item() == total)

    return work


def row(caller, number):
    """An input of zoo.double() that no other call has."""
    return {"x": np.array([[caller, number, -number]], np.float32)}
