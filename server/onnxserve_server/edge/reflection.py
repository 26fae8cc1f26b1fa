"""Server reflection as a method of the edge: an idle call holds no thread, and any bytes get an answer or an error."""

import threading
from collections.abc import Callable, Iterable

from grpc_reflection.v1alpha import reflection, reflection_pb2

from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.messages import Parse
from onnxserve_server.edge.status import status_of, unexpected
from onnxserve_server.errors import Draining, ServeError

SERVICE: str = reflection.SERVICE_NAME
METHOD = f"/{SERVICE}/ServerReflectionInfo"


class Reflection:
    """Handles the calls of the method; open() makes the handler of one of them."""

    def __init__(self, services: Iterable[str], parse: Parse) -> None:
        self._servicer = reflection.ReflectionServicer(services)
        self._parse = parse
        self._calls: dict[_Call, None] = {}
        self._stopping = False

    def open(self, call: StreamCall) -> "_Call":
        """Return the handler of a call."""
        made = _Call(call, self._answer, lambda ended: self._calls.pop(ended, None))
        self._calls[made] = None
        if self._stopping:
            made.stop()
        else:
            call.read()
        return made

    def stop(self) -> None:
        """End all calls with UNAVAILABLE."""
        self._stopping = True
        for call in list(self._calls):
            call.stop()

    def _answer(self, message: bytes) -> bytes:
        request = self._parse(reflection_pb2.ServerReflectionRequest, message)
        (response,) = self._servicer.ServerReflectionInfo(iter((request,)), None)
        answer: bytes = response.SerializeToString()
        return answer


class _Call:
    """One call: a message is read when the answer to the one before is out. Implements calls.StreamEvents."""

    def __init__(
        self, call: StreamCall, answer: Callable[[bytes], bytes], on_over: Callable[["_Call"], object]
    ) -> None:
        self._call = call
        self._answer = answer
        self._on_over = on_over
        self._lock = threading.Lock()
        self._sending = False
        self._ended = False
        self._error: ServeError | None = None  # to end with, when the answer that is being sent is out

    def on_message(self, message: bytes) -> None:
        """Answer a message."""
        try:
            answer = self._answer(message)
        except ServeError as error:
            self._end(error)
        except Exception:
            self._end(unexpected(""))
        else:
            with self._lock:
                if self._ended:
                    return
                self._sending = True
            self._call.send(answer, more=False)

    def on_sent(self) -> None:
        """Read on."""
        with self._lock:
            self._sending = False
            error, ended = self._error, self._ended
        if error is not None:
            self._end(error)
        elif not ended:
            self._call.read()

    def on_half_close(self) -> None:
        """End the call."""
        self._end(None)

    def on_gone(self) -> None:
        """End the call."""
        self._end(None)

    def stop(self) -> None:
        """End the call with UNAVAILABLE."""
        self._end(Draining("the server is about to stop"))

    def _end(self, error: ServeError | None) -> None:
        with self._lock:
            if self._ended:
                return
            if self._sending:
                self._error = self._error or error or Draining("the caller left")
                return
            self._ended = True
        self._on_over(self)
        self._call.end(None if error is None else status_of(error))
