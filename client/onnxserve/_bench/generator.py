"""Sends requests under a load and times them: one event loop, one connection, messages made beforehand."""

import asyncio
import itertools
import selectors
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter as now

import grpc
import grpc.aio

from onnxserve._bench.cpu import Meter, Use
from onnxserve._bench.load import Callers, Load, Rate
from onnxserve._bench.sample import Recorder, Sample
from onnxserve._bench.sending import Sender, Streamed, Unary
from onnxserve._channel import Methods, channel_options, target_uri

MAX_OUT = 10_000
"""Most requests of an open loop that may be out; those that are due beyond are dropped."""

Tell = Callable[[float, int, int], None]
"""Is told now and then which share of the time is over, how many were answered, how many failed or dropped."""

_TELLING = 0.25  # seconds
_MAX_MESSAGE_BYTES = 64 << 20  # as the clients have it


@dataclass(frozen=True, kw_only=True)
class Generator:
    """What a measurement needs beside its load.

    Attributes:
        target: the server.
        credentials: for TLS; None: no encryption.
        messages: serialized PredictRequests, sent in turn.
        rows: of each of them.
        timeout: seconds for each request.
        stream: whether they go over one call of Stream; else each is a call of Predict.
        warm_up: seconds for which the load is on before it is measured.
        seconds: for which it is measured.
        max_out: see MAX_OUT.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    messages: Sequence[bytes]
    rows: int
    timeout: float
    stream: bool
    warm_up: float
    seconds: float
    max_out: int = MAX_OUT

    def measure(self, load: Load, tell: Tell) -> Sample:
        """Put a load on the server. When interrupted (Ctrl-C), return what was measured until then.

        Nothing is retried. Requests that are out when the time is over are waited for, as they are in the figures.
        """
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(self._measure(load, tell))

    async def _measure(self, load: Load, tell: Tell) -> Sample:
        options = channel_options(
            max_message_bytes=_MAX_MESSAGE_BYTES, keepalive=60.0, retries=0, load_balancing="round_robin", options=()
        )
        async with _channel(target_uri(self.target), self.credentials, options) as channel:
            methods = Methods(channel)
            sender: Sender = Unary(methods, self.timeout)
            if self.stream:
                sender = Streamed(methods, self.warm_up + self.seconds + self.timeout)
            measurement = _Measurement(self, load, sender)
            try:
                return await measurement.run(tell)
            finally:
                await sender.close()


def _loop() -> asyncio.SelectorEventLoop:
    """Return a loop whose timers are exact: epoll, the usual selector, rounds them up to whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, object]]
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


class _Measurement:
    """One load on one server, from the warm-up to the last answer."""

    def __init__(self, generator: Generator, load: Load, sender: Sender) -> None:
        self._generator = generator
        self._load = load
        self._sender = sender
        self._messages: Iterator[bytes] = itertools.cycle(generator.messages)
        self._recorder = Recorder()
        self._busy: list[tuple[float, float]] = []  # of each caller: its first measured request, its last answer
        self._last_answer = 0.0
        self._cpu = Use()
        self._start = now() + generator.warm_up
        self._end = self._start + generator.seconds

    async def run(self, tell: Tell) -> Sample:
        watching = asyncio.create_task(self._watch(tell))
        try:
            if isinstance(self._load, Callers):
                await asyncio.gather(*(self._call_on() for _ in range(self._load.number)))
            else:
                await self._send_on_time(self._load)
            complete = True
        except asyncio.CancelledError:
            complete = False
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return self._recorder.sample(
            self._load, seconds=self._time(), rows=self._generator.rows, cpu=self._cpu, complete=complete
        )

    async def _call_on(self) -> None:
        """Be one caller: send the next request when the last one has ended."""
        first = last = 0.0
        due = now()
        try:
            while due < self._end:
                outcome = await self._sender.send(next(self._messages))
                ended = now()
                if due >= self._start:
                    self._recorder.record(outcome, ended - due)
                    first, last = first or due, ended
                due = ended
        finally:
            if last:
                self._busy.append((first, last))

    async def _send_on_time(self, load: Rate) -> None:
        """Send each request when it is due, whatever has become of those before it."""
        out: set[asyncio.Task[None]] = set()
        try:
            for due, is_measured in self._dues(load):
                await asyncio.sleep(max(0.0, due - now()))  # 0 too: what has been started must get its turn
                if len(out) >= self._generator.max_out:
                    self._recorder.dropped += is_measured
                    continue
                task = asyncio.create_task(self._send_one(due, is_measured))
                out.add(task)
                task.add_done_callback(out.discard)
            await asyncio.gather(*out)
        except asyncio.CancelledError:
            for task in out:
                task.cancel()
            await asyncio.gather(*out, return_exceptions=True)
            raise

    def _dues(self, load: Rate) -> Iterator[tuple[float, bool]]:
        generator = self._generator
        if generator.warm_up:
            begin = self._start - generator.warm_up
            yield from ((begin + due, False) for due in load.times(generator.warm_up).tolist())
        yield from ((self._start + due, True) for due in load.times(generator.seconds).tolist())

    async def _send_one(self, due: float, is_measured: bool) -> None:
        delay = now() - due
        outcome = await self._sender.send(next(self._messages))
        if is_measured:
            self._last_answer = now()
            self._recorder.sent(delay)
            self._recorder.record(outcome, self._last_answer - due)

    async def _watch(self, tell: Tell) -> None:
        """Tell how it goes, and take the time of the CPU between start and end."""
        await asyncio.sleep(self._start - now())
        meter = Meter()
        try:
            while (left := self._end - now()) > 0:
                recorder = self._recorder
                failed = recorder.errors.total() + recorder.dropped
                tell(1 - left / self._generator.seconds, recorder.ended - failed, failed)
                await asyncio.sleep(min(left, _TELLING))
        finally:
            self._cpu = meter.read()

    def _time(self) -> float:
        """Return the seconds in which the measured requests ended.

        For callers the mean over them, from the first request to the last answer: in a time that ended with the clock,
        the last request of each would be counted, and its duration not.
        """
        if isinstance(self._load, Callers):
            return sum(last - first for first, last in self._busy) / max(1, len(self._busy))
        return max(self._last_answer, min(now(), self._end)) - self._start
