"""Exports a model until a file matches it: with each exporter, and with an older operator set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from onnxserve_converters import graph
from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import ConverterError, NotProved
from onnxserve_converters.evaluation import Candidate
from onnxserve_converters.narrowing import HasInnerValues, first_difference
from onnxserve_converters.parity import Reference
from onnxserve_converters.sources.base import Model

_OLDER_OPSETS = (18, 15)
"""Operator sets to fall back to: torch's newer exporter writes 18 itself, and converts that to others."""


@runtime_checkable
class HasExporters(Protocol):
    """A model that several exporters can write.

    Attributes:
        exporter: the name of the one that wrote the last file.
    """

    exporter: str

    def next_exporter(self) -> bool:
        """Leave out the exporter that wrote the last file; return whether another one is left."""
        ...


@dataclass(kw_only=True)
class Attempts:
    """The exports of one model.

    Attributes:
        model: the model.
        opset: the operator set that was asked for; None: the exporters' own.
        older: whether an older operator set is tried, too.
        cases: their example is exported with.
        references: the framework's outputs.
        tolerances: the largest error by dtype.
        evaluate: corrects an exporter's file, and compares it.
        progress: called with the name of each stage as it starts.
        tried: what was tried without success: {"export", "fault"} each.
    """

    model: Model
    opset: int | None
    older: bool
    cases: Cases
    references: list[Reference]
    tolerances: Mapping[str, float]
    evaluate: Callable[[Path], Candidate]
    progress: Callable[[str], None]
    tried: list[dict[str, str]] = field(default_factory=list)

    def run(self, path: Path) -> Candidate:
        """Return the first file that matches the model, which the exporter wrote to `path`.

        Raises:
            NotProved: none does; it says how the first one differs, and what else was tried.
            ExportFailed: no exporter writes a file.
        """
        first: NotProved | None = None
        for opset in self._opsets(path):
            self.progress("export")
            try:
                self.model.export(path, self.cases.example(), opset)
                candidate = self.evaluate(path)
            except ConverterError as error:
                if isinstance(error, NotProved):
                    first = first or self._narrowed(error, path)
                elif first is None:
                    raise
                self.tried.append({"export": self._name(opset), "fault": str(error)})
                continue
            self.model.notes += [
                f"exported by {self._name(opset)}, for the file of {each['export']} was refused: {each['fault']}"
                for each in self.tried
            ]
            return candidate
        assert first is not None  # or the first failure was raised
        notes = "".join(f"; {note}" for note in self.model.notes)  # the changes that they name may be the cause
        others = ", ".join(each["export"] for each in self.tried[1:])
        more = f"; no file of {others} matches it either" if others else ""
        raise NotProved(f"{first}{notes}{more}", first.report | {"notes": self.model.notes, "tried": self.tried})

    def _opsets(self, path: Path) -> Iterator[int | None]:
        """Yield the operator sets to export with: with each exporter its own, and an older one."""
        yield self.opset
        while True:
            if self.older and self.opset is None and path.exists():  # some sources compare before they write a file
                written = graph.opsets(graph.read(path, external_data=False)).get("ai.onnx", 0)
                if step := next((n for n in _OLDER_OPSETS if n < written), None):
                    yield step
            if not (isinstance(self.model, HasExporters) and self.model.next_exporter()):
                return
            yield self.opset

    def _name(self, opset: int | None) -> str:
        name = self.model.exporter if isinstance(self.model, HasExporters) else "the exporter"
        return name if opset is None else f"{name} with opset {opset}"

    def _narrowed(self, error: NotProved, exported: Path) -> NotProved:
        """Return an error with the first module whose values differ, where the framework and the file can tell it."""
        sizes = next((row["sizes"] for row in error.report.get("parity", ()) if not row["passes"]), None)
        if sizes is None or not isinstance(self.model, HasInnerValues):
            return error
        feeds = next(each.case.feeds for each in self.references if dict(each.case.sizes) == sizes)
        try:
            found = first_difference(self.model, exported, feeds, self.tolerances)
        except Exception:  # the framework's and ONNX Runtime's, of any class: the difference itself is known
            found = None
        if found is None:
            return error
        where = f"the values differ first in module {found['module']}, at node {found['node']} ({found['operator']})"
        return NotProved(f"{error}; {where}", error.report | {"first_difference": found})
