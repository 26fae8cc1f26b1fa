"""What the engine keeps of each model that it serves."""

from dataclasses import dataclass

from onnxserve_server.engine.admission import Admission
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.sequence_state import States


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, and what checks requests for it."""

    model: ServedModel
    admission: Admission
    states: States
