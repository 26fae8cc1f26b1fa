"""How far a stream has got towards its end.

It goes down this table, and never up:

    phase      new requests      those in flight    left by                                              for
    OPEN       taken             finished           stop(); the engine drains                            STOPPING
                                                    cut_off()                                            CUT_OFF
                                                    on_gone(), abort()                                   ABORTING
                                                    none is in flight, and the caller has closed         ENDED
    STOPPING   left unanswered   finished           cut_off()                                            CUT_OFF
                                                    on_gone(), abort()                                   ABORTING
                                                    none is in flight, and the states of sequences are   ENDED
                                                    handed over, or the caller has closed
    CUT_OFF    left unanswered   left unanswered    as STOPPING                                          ENDED
                                                    on_gone(), abort()                                   ABORTING
    ABORTING   left unanswered   left unanswered    the message that was being sent is out               ENDED
    ENDED      left unanswered   none

A STOPPING stream still takes requests while a sequence is live whose state would be lost with it. Once one
was left unanswered, for another server, the call ends with an error even if its caller has closed.
"""

from collections.abc import Callable
from enum import Enum, auto

from onnxserve_server.errors import CutOff, Draining, ServeError

SERVER_STOPS = "the server is about to stop"
CUT_SHORT = "the server stopped before this was answered: raise --drain-timeout where requests take longer"


class Phase(Enum):
    """The phase of a stream; see the table above."""

    OPEN = auto()
    STOPPING = auto()
    CUT_OFF = auto()
    ABORTING = auto()
    ENDED = auto()


# Python 3.11 takes long to find a member of an enum, and these are looked up for every request.
_OPEN, _STOPPING, _CUT_OFF, _ABORTING, _ENDED = Phase
_OVER = (_ABORTING, _ENDED)


class StreamState:
    """The phase of a stream, and what its end depends on. Not thread-safe: the stream has a lock.

    Args:
        must_stay: whether a sequence is live whose state would be lost with the stream.

    Attributes:
        phase: it.
        error: ends the requests in flight from CUT_OFF on, and the call in ABORTING.
        half_closed: the caller sends no more.
        has_dropped: a request was left unanswered, so the call cannot end well.
    """

    __slots__ = ("_must_stay", "_reason", "error", "half_closed", "has_dropped", "phase")

    def __init__(self, must_stay: Callable[[], bool]) -> None:
        self._must_stay = must_stay
        self._reason = ""  # why no more requests are taken, from STOPPING on
        self.phase = _OPEN
        self.error: ServeError | None = None
        self.half_closed = False
        self.has_dropped = False

    @property
    def is_over(self) -> bool:
        """Whether it is ABORTING or ENDED."""
        return self.phase in _OVER

    @property
    def takes_requests(self) -> bool:
        """Whether further requests are taken: until the server stops, and then for sequences that would be lost."""
        return self.phase is _OPEN or (self.phase is _STOPPING and self._must_stay())

    @property
    def ends_well(self) -> bool:
        """Whether the call ends with OK once every request in flight is answered."""
        return self.half_closed and not self.has_dropped

    def is_done(self, in_flight: bool) -> bool:
        """Whether the call is to end, now that there is nothing to send; `in_flight`: requests are."""
        if in_flight:
            return self.phase is _ABORTING
        return self.ends_well or not self.takes_requests

    def enter_stopping(self, why: str) -> None:
        """Take no more requests."""
        self._reason = why
        if self.phase is _OPEN:
            self.phase = _STOPPING

    def enter_cut_off(self, error: CutOff, in_flight: bool) -> bool:
        """Leave the requests in flight, if there are any, unanswered; return whether the stream was not over."""
        if self.phase in _OVER:
            return False
        self.phase, self.error = _CUT_OFF, error
        self._reason = CUT_SHORT if in_flight else SERVER_STOPS
        return True

    def enter_aborting(self, error: ServeError) -> bool:
        """End now; return whether the stream was not over."""
        if self.phase in _OVER:
            return False
        self.phase, self.error = _ABORTING, error
        return True

    def enter_ended(self) -> ServeError | None:
        """Return the error that the call ends with, None for OK."""
        error: ServeError | None = None if self.ends_well else Draining(self._reason)
        if self.phase is _ABORTING:
            error = self.error
        self.phase = _ENDED
        return error
