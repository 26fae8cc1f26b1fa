"""One request that came by HTTP, on its way through the engine. Every protocol over HTTP takes this way."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from onnxserve_server.core import Done, Job, Request, Result, Trace
from onnxserve_server.engine.seam import Inference
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import Observer
from onnxserve_server.web.errors import status_of


class EngineCall:
    """Implements core.RequestInfo. Make it when the head of the request has arrived: its time counts from then on.

    Args:
        engine: runs the request.
        observer: notes its end; None without.
        method: its name in metrics and spans.
    """

    def __init__(self, engine: Inference, observer: Observer | None, method: str) -> None:
        self.method = method
        self.model = self.version = self.request_id = ""
        self.arrived = engine.clock()
        self.trace: Trace | None = None
        self._engine = engine
        self._observer = observer

    def identify(self, model: str, version: str, request_id: str) -> None:
        """Note the model and version that the caller names, known or not, and its id for the request."""
        self.model, self.version, self.request_id = model, version, request_id

    async def run(self, http: HttpRequest, decode_and_submit: Callable[[Done], Job]) -> Result | ServeError:
        """Return the outcome of the request, which the observer has noted. It is cancelled if the caller leaves first.

        Args:
            http: the HTTP request, whose body has been read.
            decode_and_submit: calls identify(), then submit(). It runs on a thread, for it may take long, and may
                raise ServeError.
        """
        if self._observer is not None:
            self.trace = self._observer.begin(http.headers.items(), self.arrived)
        try:
            outcome = await self._wait(http, decode_and_submit)
        except ServeError as error:
            outcome = error
        except Exception:
            self._note_end(ServeError("the server failed on this request"))
            raise
        self._note_end(outcome)
        return outcome

    def submit(self, request: Request, done: Done) -> Job:
        """Submit a decoded request and flush; raises as Inference.submit() does."""
        if self.trace is not None:
            self.trace.mark("admit")
        job = self._engine.submit(request, done)
        self._engine.flush()
        return job

    async def _wait(self, http: HttpRequest, decode_and_submit: Callable[[Done], Job]) -> Result | ServeError:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Result | ServeError] = loop.create_future()

        def done(outcome: Result | ServeError) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped, and its loop is closed
                loop.call_soon_threadsafe(_set_outcome, ended, outcome)

        # On a thread: to decode takes long, and to flush may be to run the model.
        job = await run_in_threadpool(decode_and_submit, done)
        left = asyncio.ensure_future(_wait_until_caller_leaves(http))
        try:
            await asyncio.wait((ended, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            job.cancel()  # does nothing to a job that has ended
        return await ended

    def _note_end(self, outcome: Result | ServeError) -> None:
        if self._observer is None:
            return
        code, status = ("OK", 200) if isinstance(outcome, Result) else (outcome.code.name, status_of(outcome))
        if self.trace is not None:
            self.trace.answered_by_http(status)
        self._observer.on_answer(self, code, outcome)


async def _wait_until_caller_leaves(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _set_outcome(ended: "asyncio.Future[Result | ServeError]", outcome: Result | ServeError) -> None:
    if not ended.done():
        ended.set_result(outcome)
