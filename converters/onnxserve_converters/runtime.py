"""Runs an ONNX file in ONNX Runtime, as the server will load it."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from onnxserve.tensor import Array
from onnxserve_converters.errors import NotProved
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.prober import Prober
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.runtime.verdict import Verdict

_LEVELS = ("all", "layout", "extended")
"""Levels of graph optimization, in the order tried: at some, ONNX Runtime 1.31.1 crashes on float16 LSTMs."""

_CURE = "give it a range of values or samples (--range, --samples)"


class Runtime:
    """A loaded file; the server's probe has loaded it in a process of its own before.

    Args:
        path: the file.
        report: a file with what realistic inputs are, under "check" as in report.json; None: it is not known.

    Attributes:
        verdict: whether the server will batch requests, or why not.
        config: the text that model.yaml needs for the server to load the file; "" for none.
        notes: the reason, in a sentence; empty without config.

    Raises:
        NotProved: the file does not load, or crashes the process at every level of graph optimization.
    """

    def __init__(self, path: Path, report: Path | None = None) -> None:
        options, self.verdict = _probe(path, report)
        self.config, self.notes = "", list[str]()
        if options.graph_optimization != _LEVELS[0]:
            self.config = f"graph_optimization: {options.graph_optimization}\n"
            self.notes.append(
                f"ONNX Runtime {onnxruntime.__version__} cannot load it fully optimized; model.yaml lowers the level"
            )
        self._session = Session(path, options)
        self._outputs = [spec.name for spec in self._session.outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the file once."""
        return dict(zip(self._outputs, self._session.run(dict(feeds), self._outputs), strict=True))


def _probe(path: Path, report: Path | None) -> tuple[SessionOptions, Verdict]:
    """Return the first options that a file loads with, and the probe's verdict."""
    with Prober() as prober:
        for level in _LEVELS:
            options = SessionOptions(graph_optimization=level, report=str(report or ""))
            try:
                findings = prober.probe(path, options)
            except ConfigurationError as error:
                fault = f"cannot load the ONNX file: {error}"
                continue
            if not findings.died:
                return options, findings.verdict
            fault = f"loads the ONNX file, but {findings.died}; if made-up inputs are the reason, {_CURE}"
    raise NotProved(f"ONNX Runtime {onnxruntime.__version__} {fault}")
