"""Evaluates each graph of a conversion: loads it, compares it, and scores it on labelled samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array
from onnxserve_converters import graph
from onnxserve_converters.cases import Cases
from onnxserve_converters.comparison import Parity
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import batch_axis
from onnxserve_converters.parity import Reference, check_parity
from onnxserve_converters.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A graph that matches the framework and may be published.

    Attributes:
        runtime: the file, loaded.
        size: bytes of the file and its external data.
        parity: a row for each case and output.
        accuracy: the share of the samples whose class is right; None without labels.
    """

    runtime: Runtime
    size: int
    parity: list[Parity]
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates files against one model's references.

    Attributes:
        references: the framework's outputs.
        tolerances: as for parity.check_parity().
        cases: the arrays; the accuracy is that of their samples.
        right: the right classes of the samples, numbers or strings; None without labels.
        report: a file with what realistic inputs are, as for Runtime.
    """

    references: Sequence[Reference]
    tolerances: Mapping[str, float]
    cases: Cases
    right: Array | None
    report: Path | None = None

    def evaluate(self, path: Path, max_error: float | None = None) -> Candidate:
        """Evaluate a file; `max_error` is as for parity.check_parity().

        Raises:
            NotProved: the file does not load, or does not match the framework.
            BadRequest: the right classes do not fit the first output.
        """
        runtime = Runtime(path, self.report)
        batch = batch_axis(self.cases.inputs)
        parity = check_parity(runtime.run, self.references, self.tolerances, max_error, batch)
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
                f"label in the samples: {right.dtype}{list(right.shape)} does not fit the classes of the first output, "
                f"{output.dtype}{list(output.shape)}; give one class for each sample, or leave the array out"
            )
        return float(np.mean(classes.reshape(right.shape) == right))


def _classes(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an output's classes: the index of the largest of several values, or a single value's own class."""
    classes = output
    if output.ndim > 1 and output.shape[-1] > 1:
        classes = output.argmax(axis=-1)
    elif output.dtype.kind == "f":
        are_probabilities = output.min() >= 0 and output.max() <= 1
        classes = output > (0.5 if are_probabilities else 0.0)
    return classes
