"""What the engine keeps of each model that it serves."""

from dataclasses import dataclass

from onnxserve_server.engine.admission import Admission
from onnxserve_server.engine.states import States
from onnxserve_server.scheduling.model import ServedModel


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, and what checks requests for it."""

    model: ServedModel
    admission: Admission
    states: States
