"""Predictions by JSON, for the page's form. They go through the engine, and are counted, as the calls by gRPC are."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from onnxserve_server.core import Done, Job, Request, Result, WireTensor
from onnxserve_server.engine.seam import Inference
from onnxserve_server.errors import EncodingNotSupported, InvalidRequest, QueueFull, ServeError, Violation
from onnxserve_server.observing import PAGE_METHOD, Observer
from onnxserve_server.spec import ModelSpec
from onnxserve_server.web import uploads
from onnxserve_server.web.engine_call import EngineCall
from onnxserve_server.web.errors import AsciiJson, NotPost, TooLarge, error_response
from onnxserve_server.web.origin import check_sender
from onnxserve_server.web.tensors import read_tensor, write_tensor
from onnxserve_server.web.uploads import Uploads

MAX_CONCURRENT = 8
"""Predictions in flight. The form is for people; callers with more requests than that use gRPC."""

Ungzip = Callable[[bytes], bytes]
"""Returns a body as it was before it was compressed; raises MessageTooLarge, InvalidRequest."""

_MAX_REQUEST_ID = 128  # characters
_MAX_VALUES = 250_000  # of one request: to parse millions of them would keep the interpreter from all other callers
_NAMES = ("model", "version", "request_id")
_FIELDS = ("model", "version", "inputs", "request_id")


class Predictions:
    """Answers /api/predict, which takes POST alone.

    Args:
        engine: runs the requests.
        observer: notes the end of each request that was read; None: nobody does.
        ungzip: unpacks bodies that are compressed with gzip; None: none may be.
    """

    def __init__(self, engine: Inference, observer: Observer | None, ungzip: Ungzip | None) -> None:
        self._engine = engine
        self._observer = observer
        self._ungzip = ungzip
        self._uploads = Uploads()
        self._in_flight = 0

    async def answer(self, request: HttpRequest) -> Response:
        """Answer one request. It is in flight once all of it is there: until then it takes its sender's time alone."""
        try:
            if request.method != "POST":
                raise NotPost(f"method {request.method} is not allowed; use POST")
            check_sender(request)
            unpack = self._unpacker(request.headers.get("content-encoding", "identity"))
            call = EngineCall(self._engine, self._observer, PAGE_METHOD)
            body = await self._uploads.read(request)
            if self._in_flight >= MAX_CONCURRENT:
                raise QueueFull(f"{MAX_CONCURRENT} predictions by HTTP are in flight, the most at a time", 1.0)
            self._in_flight += 1
            try:
                outcome = await call.run(request, functools.partial(self._submit, call, body, unpack))
            finally:
                self._in_flight -= 1
        except ServeError as error:
            return error_response(error)
        return error_response(outcome) if isinstance(outcome, ServeError) else _response(outcome, call.request_id)

    def _unpacker(self, encoding: str) -> Ungzip:
        """Return what unpacks bodies of an encoding."""
        encoding = encoding.strip().lower()
        if encoding == "gzip" and self._ungzip is not None:
            return self._ungzip
        if encoding != "identity":
            raise EncodingNotSupported(
                f"the body is compressed ({encoding}): send it without compression, or start the server with "
                "--compression gzip, by which it takes gzip",
                encoding=encoding,
                accepted="identity" if self._ungzip is None else "gzip",
            )
        return lambda body: body

    def _submit(self, call: EngineCall, body: bytes, unpack: Ungzip, done: Done) -> Job:
        fields = _parse(unpack(body))
        _check_fields(fields)
        call.identify(*(fields.get(name, "") for name in _NAMES))
        spec = self._engine.spec(call.model, call.version)
        request = Request(
            model=call.model,
            version=call.version,
            inputs=_read_inputs(fields["inputs"], spec),
            request_id=call.request_id,
            deadline=call.arrived + min(uploads.TIMEOUT, self._engine.default_timeout),
            trace=call.trace,
        )
        try:
            return call.submit(request, done)
        except InvalidRequest as error:
            raise _with_input_names(error, request) from error


def _parse(body: bytes) -> Mapping[str, Any]:
    values = sum(map(body.count, (b",", b"[", b"{")))
    if values > _MAX_VALUES:
        raise TooLarge(f"the request has about {values} values; at most {_MAX_VALUES} may be listed: send base64")
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest([Violation("request", f"not valid JSON: {error}")]) from error
    if not isinstance(fields, Mapping):
        raise InvalidRequest([Violation("request", "must be a JSON object")])
    return fields


def _refuse_constant(constant: str) -> None:
    raise ValueError(f'{constant} is not a JSON number; write "{constant}"')


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where a field is unknown or has the wrong type; the tensors are not looked at."""
    faults = [Violation(name, "must be a string") for name in _NAMES if not isinstance(fields.get(name, ""), str)]
    faults += [
        Violation(name, f"unknown field; the fields are {', '.join(_FIELDS)}")
        for name in sorted(fields.keys() - set(_FIELDS))
    ]
    if not isinstance(fields.get("inputs"), Mapping):
        faults.append(Violation("inputs", "must be an object of tensors by input name"))
    if not faults:
        faults = [
            Violation(name, "not valid Unicode: it has a lone surrogate")
            for name in _NAMES
            if not _is_unicode(fields.get(name, ""))
        ]
    if not faults and len(fields.get("request_id", "")) > _MAX_REQUEST_ID:
        faults.append(Violation("request_id", f"must not be longer than {_MAX_REQUEST_ID} characters"))
    if faults:
        raise InvalidRequest(faults)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, as logs and traces write it; one that JSON escapes may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_inputs(inputs: Mapping[str, Any], spec: ModelSpec) -> list[WireTensor]:
    specs = {tensor.name: tensor for tensor in spec.inputs}
    faults: list[Violation] = []
    tensors = []
    for name, value in inputs.items():
        if name in specs:
            tensors.append(read_tensor(specs[name], value, f"inputs.{name}", faults))
        else:
            names = ", ".join(map(repr, specs))
            faults.append(Violation(f"inputs.{name}", f"unknown input {name!r}; the model's inputs are {names}"))
    if faults:
        raise InvalidRequest(faults, model=spec.name, version=spec.version)
    return [tensor for tensor in tensors if tensor is not None]


def _with_input_names(error: InvalidRequest, request: Request) -> InvalidRequest:
    """Return the error with paths of this form, whose inputs have names where the engine's have positions."""

    def name(found: re.Match[str]) -> str:
        return f"inputs.{request.inputs[int(found[1])].name}"

    violations = [Violation(re.sub(r"^inputs\[(\d+)\]", name, field), text) for field, text in error.violations]
    return InvalidRequest(violations, **error.metadata)


def _response(result: Result, request_id: str) -> Response:
    fields = {
        "model": result.model,
        "version": result.version,
        "request_id": request_id,
        "outputs": [write_tensor(spec, array) for spec, array in result.outputs],
        "receipt": result.receipt._asdict(),
    }
    return AsciiJson(fields, headers={"Cache-Control": "no-store"})
