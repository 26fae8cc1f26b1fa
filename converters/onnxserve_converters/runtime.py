"""The ONNX file in ONNX Runtime, as the server will load it."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from onnxserve.tensor import Array
from onnxserve_converters.errors import NotProved
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.probe import Verdict
from onnxserve_server.runtime.prober import Prober
from onnxserve_server.runtime.session import Session, SessionOptions

_LEVELS = ("all", "layout", "extended")
"""Levels of optimization to try, should ONNX Runtime die of a graph: 1.31.1 does of float16 LSTMs, at up to two."""


class Runtime:
    """A loaded file. It is first tried in a process of its own, by the server's probe.

    Args:
        path: the file.

    Attributes:
        verdict: whether the server will batch requests, and why not.
        config: what model.yaml must say for the server to load it; "" for nothing.
        notes: why it must say that, in a sentence; none for nothing.

    Raises:
        NotProved: it does not load, or takes the process down with it at every level of optimization.
    """

    def __init__(self, path: Path) -> None:
        options, self.verdict = _probe(path)
        self.config, self.notes = "", list[str]()
        if options != SessionOptions():
            self.config = f"graph_optimization: {options.graph_optimization}\n"
            self.notes.append(
                f"ONNX Runtime {onnxruntime.__version__} cannot load it with all optimization: model.yaml asks for less"
            )
        self._session = Session(path, options)
        self._outputs = [spec.name for spec in self._session.outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the file once."""
        return dict(zip(self._outputs, self._session.run(dict(feeds), self._outputs), strict=True))


def _probe(path: Path) -> tuple[SessionOptions, Verdict]:
    """Return the first options that a file loads with, and what the probe says of it."""
    with Prober() as prober:
        for level in _LEVELS:
            options = SessionOptions(graph_optimization=level)
            try:
                return options, prober.probe(path, options)
            except ConfigurationError as error:
                refused = error
    raise NotProved(f"ONNX Runtime {onnxruntime.__version__} cannot load it: {refused}") from refused
