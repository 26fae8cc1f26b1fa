"""Sends requests under a load and times them, in one event loop, on one connection, with messages made beforehand."""

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
"""The limit of requests of an open loop in flight; requests that are due beyond it are dropped."""

OnProgress = Callable[[float, int, int], None]
"""Called with the fraction of the time that is over, and the numbers of answered and of failed or dropped requests."""

_PROGRESS_INTERVAL = 0.25  # seconds
_MAX_MESSAGE_BYTES = 64 << 20  # as the clients have it


@dataclass(frozen=True, kw_only=True)
class Generator:
    """The settings of measurements under several loads.

    Attributes:
        target: the server.
        credentials: TLS credentials; None: no encryption.
        messages: serialized PredictRequests, sent in turn.
        rows: the rows of each request.
        timeout: seconds for each request.
        stream: True: send all requests on one call of Stream; False: each with a call of Predict.
        warm_up: seconds to run a load before it is measured.
        seconds: seconds to measure a load.
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

    def measure(self, load: Load, on_progress: OnProgress) -> Sample:
        """Measure the server under a load. If interrupted (Ctrl-C), return the measurements until then.

        Requests are not retried. Those in flight when the time is over are waited for: the figures include them.
        """
        with asyncio.Runner(loop_factory=_loop) as runner:
            return runner.run(self._measure(load, on_progress))

    async def _measure(self, load: Load, on_progress: OnProgress) -> Sample:
        options = channel_options(
            max_message_bytes=_MAX_MESSAGE_BYTES, keepalive=60.0, load_balancing="round_robin", options=()
        )
        async with _channel(target_uri(self.target), self.credentials, options) as channel:
            methods = Methods(channel)
            sender: Sender = Unary(methods, self.timeout)
            if self.stream:
                sender = Streamed(methods, self.warm_up + self.seconds + self.timeout)
            measurement = _Measurement(self, load, sender)
            try:
                return await measurement.run(on_progress)
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
        self._busy: list[
            tuple[float, float]
        ] = []  # for each caller, times of its first measured request and last answer
        self._last_answer = 0.0
        self._cpu = Use()
        self._start = now() + generator.warm_up
        self._end = self._start + generator.seconds

    async def run(self, on_progress: OnProgress) -> Sample:
        watching = asyncio.create_task(self._watch(on_progress))
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
        """Act as one caller: send the next request when the last one has ended."""
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
        """Send each request when it is due, even if earlier ones are still in flight."""
        out: set[asyncio.Task[None]] = set()
        try:
            for due, is_measured in self._dues(load):
                await asyncio.sleep(max(0.0, due - now()))  # 0 too: started requests must get their turn
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

    async def _watch(self, on_progress: OnProgress) -> None:
        """Report progress, and measure CPU time from start to end."""
        await asyncio.sleep(self._start - now())
        meter = Meter()
        try:
            while (left := self._end - now()) > 0:
                recorder = self._recorder
                failed = recorder.errors.total() + recorder.dropped
                on_progress(1 - left / self._generator.seconds, recorder.ended - failed, failed)
                await asyncio.sleep(min(left, _PROGRESS_INTERVAL))
        finally:
            self._cpu = meter.read()

    def _time(self) -> float:
        """Return the seconds in which the measured requests ended.

        For callers it is the mean over them of the time from first request to last answer: a time that ended by the
        clock would leave out part of the duration of each caller's last request, but count the request.
        """
        if isinstance(self._load, Callers):
            return sum(last - first for first, last in self._busy) / max(1, len(self._busy))
        return max(self._last_answer, min(now(), self._end)) - self._start
