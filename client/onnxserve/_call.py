"""One request, as the caller asked for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxserve.tensor import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictCall:
    """The arguments of predict(), or of one request of a stream or a sequence. Nothing has been checked yet.

    Attributes:
        model: the model's name.
        inputs: an array for each input, by name.
        outputs: the names of the outputs wanted; None: all.
        version: the version to run; None: the one that the server prefers.
        priority: from -10 to 10.
        timeout: seconds for the answer; None: no limit.
        request_id: the caller's name for the request; None: the client makes one up.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] | None = None
    version: str | None = None
    priority: int = 0
    timeout: float | None = None
    request_id: str | None = None

    def with_inputs(self, inputs: Mapping[str, Array]) -> "PredictCall":
        """Return the same request for other inputs."""
        return PredictCall(
            model=self.model,
            inputs=inputs,
            outputs=self.outputs,
            version=self.version,
            priority=self.priority,
            timeout=self.timeout,
            request_id=self.request_id,
        )
