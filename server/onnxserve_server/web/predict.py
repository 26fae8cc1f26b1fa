"""Predictions by JSON, for the page's form. They go through the engine, and are counted, as the calls by gRPC are."""

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from onnxserve_server.core import Done, Job, Request, Result, Trace
from onnxserve_server.engine.engine import Engine
from onnxserve_server.errors import InvalidRequest, QueueFull, ServeError, Violation
from onnxserve_server.observing import PAGE, Observer
from onnxserve_server.spec import ModelSpec
from onnxserve_server.web import uploads
from onnxserve_server.web.errors import AsciiJson, NotPost, TooLarge, error_response, status_of
from onnxserve_server.web.origin import check_sender
from onnxserve_server.web.tensors import read_tensor, write_tensor
from onnxserve_server.web.uploads import Uploads

MAX_CONCURRENT = 8
"""Predictions in hand. The form is for people; callers with more than that to ask use gRPC."""

_MAX_REQUEST_ID = 128  # characters
_MAX_VALUES = 250_000  # of one request: to parse millions of them would keep the interpreter from all other callers
_FIELDS = ("model", "version", "inputs", "request_id")


class Predictions:
    """Answers /api/predict, which is for POST. `observer` is told of each request that was read."""

    def __init__(self, engine: Engine, observer: Observer | None) -> None:
        self._engine = engine
        self._observer = observer
        self._uploads = Uploads()
        self._in_hand = 0

    async def answer(self, request: HttpRequest) -> Response:
        """Answer one request. It takes a place once it is there as a whole: until then it is its sender's time."""
        try:
            if request.method != "POST":
                raise NotPost(f"{request.method} is no way to ask for a prediction: POST it, as JSON")
            check_sender(request)
            asked = _RequestInfo(self._engine.clock())
            body = await self._uploads.read(request)
            if self._in_hand >= MAX_CONCURRENT:
                raise QueueFull(f"{MAX_CONCURRENT} predictions of this port are in hand", 1.0)
            self._in_hand += 1
            try:
                return await self._predict(request, body, asked)
            finally:
                self._in_hand -= 1
        except ServeError as error:
            return error_response(error)

    async def _predict(self, request: HttpRequest, body: bytes, asked: "_RequestInfo") -> Response:
        if self._observer is not None:
            asked.trace = self._observer.begin(request.headers.items(), asked.arrived)
        try:
            outcome = await self._outcome(request, body, asked)
        except ServeError as error:
            outcome = error
        except Exception:
            self._note(asked, ServeError("the server failed on this request"))
            raise
        self._note(asked, outcome)
        return error_response(outcome) if isinstance(outcome, ServeError) else _response(outcome, asked.request_id)

    async def _outcome(self, request: HttpRequest, body: bytes, asked: "_RequestInfo") -> Result | ServeError:
        """Have the engine answer, unless the caller leaves: then the request is cancelled."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Result | ServeError] = loop.create_future()

        def done(outcome: Result | ServeError) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped, and its loop is closed
                loop.call_soon_threadsafe(_settle, answered, outcome)

        # On a thread: to decode takes long, and to flush may be to run the model.
        job = await run_in_threadpool(self._submit, body, asked, done)
        left = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((answered, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            job.cancel()  # does nothing to a job that has ended
        return await answered

    def _submit(self, body: bytes, asked: "_RequestInfo", done: Done) -> Job:
        told = _parsed(body)
        asked.take(told)
        spec = self._engine.spec(asked.model, asked.version)
        request = _request(told, spec, asked)
        if asked.trace is not None:
            asked.trace.mark("admit")
        try:
            job = self._engine.submit(request, done)
        except InvalidRequest as error:
            raise _by_name(error, request) from error
        self._engine.flush()
        return job

    def _note(self, asked: "_RequestInfo", outcome: Result | ServeError) -> None:
        if self._observer is None:
            return
        code, status = ("OK", 200) if isinstance(outcome, Result) else (outcome.code.name, status_of(outcome))
        if asked.trace is not None:
            asked.trace.answered_by_http(status)
        self._observer.on_answer(asked, code, outcome)


class _RequestInfo:
    """Implements core.RequestInfo."""

    method = PAGE

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        self.model = self.version = self.request_id = ""
        self.trace: Trace | None = None

    def take(self, told: Mapping[str, Any]) -> None:
        """Note what a request asks for; raises InvalidRequest."""
        faults = [
            Violation(name, "it must be a string")
            for name in ("model", "version", "request_id")
            if not isinstance(told.get(name, ""), str)
        ]
        faults += [
            Violation(name, f"there is no such field; there are {', '.join(_FIELDS)}")
            for name in sorted(told.keys() - set(_FIELDS))
        ]
        if not isinstance(told.get("inputs"), Mapping):
            faults.append(Violation("inputs", "it must be an object of tensors by name"))
        if not faults:
            faults = [
                Violation(name, "it is no text: a surrogate stands alone")
                for name in ("model", "version", "request_id")
                if not _is_text(told.get(name, ""))
            ]
        if not faults and len(told.get("request_id", "")) > _MAX_REQUEST_ID:
            faults.append(Violation("request_id", f"it is longer than {_MAX_REQUEST_ID} characters"))
        if faults:
            raise InvalidRequest(faults)
        self.model, self.version = told.get("model", ""), told.get("version", "")
        self.request_id = told.get("request_id", "")


def _response(result: Result, request_id: str) -> Response:
    told = {
        "model": result.model,
        "version": result.version,
        "request_id": request_id,
        "outputs": [write_tensor(spec, array) for spec, array in result.outputs],
        "receipt": result.receipt._asdict(),
    }
    return AsciiJson(told, headers={"Cache-Control": "no-store"})


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8, as logs and traces write it; what JSON escapes may not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(body: bytes) -> Mapping[str, Any]:
    values = sum(map(body.count, (b",", b"[", b"{")))
    if values > _MAX_VALUES:
        raise TooLarge(f"the request has about {values} values, at most {_MAX_VALUES} are taken; send base64")
    try:
        told = json.loads(body, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest([Violation("request", f"it is no JSON: {error}")]) from error
    if not isinstance(told, Mapping):
        raise InvalidRequest([Violation("request", "it must be a JSON object")])
    return told


def _no_json(constant: str) -> None:
    raise ValueError(f'{constant} is no number of JSON; write "{constant}"')


def _request(told: Mapping[str, Any], spec: ModelSpec, asked: _RequestInfo) -> Request:
    specs = {tensor.name: tensor for tensor in spec.inputs}
    faults: list[Violation] = []
    tensors = []
    for name, value in told["inputs"].items():
        if name in specs:
            tensors.append(read_tensor(specs[name], value, f"inputs.{name}", faults))
        else:
            known = ", ".join(repr(known) for known in specs)
            faults.append(Violation(f"inputs.{name}", f"the model has no input {name!r}; it has {known}"))
    if faults:
        raise InvalidRequest(faults, model=spec.name, version=spec.version)
    return Request(
        model=asked.model,
        version=asked.version,
        inputs=[tensor for tensor in tensors if tensor is not None],
        request_id=asked.request_id,
        deadline=asked.arrived + uploads.TIMEOUT,
        trace=asked.trace,
    )


def _by_name(error: InvalidRequest, request: Request) -> InvalidRequest:
    """Return the error with paths of this request, whose inputs have names where the engine's have positions."""

    def name(found: re.Match[str]) -> str:
        return f"inputs.{request.inputs[int(found[1])].name}"

    violations = [Violation(re.sub(r"^inputs\[(\d+)\]", name, field), told) for field, told in error.violations]
    return InvalidRequest(violations, **error.metadata)


async def _left(request: HttpRequest) -> None:
    """Return when the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _settle(answered: "asyncio.Future[Result | ServeError]", outcome: Result | ServeError) -> None:
    if not answered.done():
        answered.set_result(outcome)
