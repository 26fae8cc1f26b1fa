"""What each graph of one conversion goes through: loaded, proved, and scored on labelled samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array
from onnxserve_converters import graph
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import Cases
from onnxserve_converters.proof import Parity, Reference, prove
from onnxserve_converters.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A proved graph that may be published.

    Attributes:
        runtime: the file, loaded.
        size: bytes of the file and its external data.
        parity: the proof.
        accuracy: the share of the samples whose class is right; None without labels.
    """

    runtime: Runtime
    size: int
    parity: list[Parity]
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What graphs are tried with.

    Attributes:
        references: what the framework answers.
        tolerances: as for proof.prove().
        cases: the arrays; where they are samples, the accuracy is theirs.
        right: the classes of the samples, numbers or strings; None: there are none.
    """

    references: Sequence[Reference]
    tolerances: Mapping[str, float]
    cases: Cases
    right: Array | None

    def run(self, path: Path, max_error: float | None = None) -> Candidate:
        """Try a file; `max_error` is as for proof.prove().

        Raises:
            NotProved: it does not load, or not do what the framework does.
            BadRequest: the right classes are none that its first output could say.
        """
        runtime = Runtime(path)
        parity = prove(runtime.run, self.references, self.tolerances, max_error)
        return Candidate(runtime=runtime, size=graph.size(path), parity=parity, accuracy=self._accuracy(runtime))

    def _accuracy(self, runtime: Runtime) -> float | None:
        """Return the share of the samples whose class, by the first output, is the right one."""
        right = self.right
        if right is None:
            return None
        output = np.concatenate([next(iter(runtime.run(feeds).values())) for feeds in self.cases.sampled()])
        classes = _classes(output)
        if classes.size != right.size or (classes.dtype.kind == "O") != (right.dtype.kind == "O"):
            raise BadRequest(
                f"the labels of the samples are {right.dtype}{list(right.shape)}, and the first output, "
                f"{output.dtype}{list(output.shape)}, says other classes than these; leave them out"
            )
        return float(np.mean(classes.reshape(right.shape) == right))


def _classes(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the classes that an output says: which of several values is the largest, or what a single one says."""
    classes = output
    if output.ndim > 1 and output.shape[-1] > 1:
        classes = output.argmax(axis=-1)
    elif output.dtype.kind == "f":
        are_probabilities = output.min() >= 0 and output.max() <= 1
        classes = output > (0.5 if are_probabilities else 0.0)
    return classes
