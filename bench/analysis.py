"""How long the analysis of the graph takes: CPU time for the model of the gallery with the most nodes."""

import statistics
import time
from pathlib import Path

import onnx

from bench.figures import Keys
from onnxserve_converters.inspection import inspect

_GALLERY = Path("build/gallery")
HOW_TO_GET_THE_GALLERY = f"No model in {_GALLERY}: the analysis of graphs is not measured. `make gallery` writes it."


def measure(runs: int) -> Keys:
    """Return `analysis.seconds`, of reading and judging the file, and `analysis.nodes`; nothing without a gallery."""
    files = sorted(_GALLERY.rglob("model.onnx"))
    if not files:
        return {}
    nodes = {file: len(onnx.load(file, load_external_data=False).graph.node) for file in files}
    largest = max(files, key=nodes.__getitem__)
    return {
        "analysis.seconds": statistics.median(_seconds(largest) for _ in range(runs)),
        "analysis.nodes": nodes[largest],
    }


def _seconds(file: Path) -> float:
    began = time.process_time()
    inspect(file)
    return time.process_time() - began
