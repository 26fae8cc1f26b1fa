"""Simplifies graphs: onnxslim, then ONNX Runtime's own graph optimization, saved to a file."""

from pathlib import Path

import onnxruntime
from onnx import ModelProto

from onnxserve_converters import graph

INLINE_BYTES = 1 << 30
"""Temporary files store larger weights beside them: protobuf messages are limited to 2 GiB."""


def simplify(model: ModelProto, scratch: Path, *, fuse: bool) -> ModelProto:
    """Return a graph of fewer nodes that computes the same.

    A graph of 16-bit floats is simplified by onnxslim alone: ONNX Runtime would add the CPU's conversions to float32.

    Args:
        model: with its weights; it is changed.
        scratch: a directory for temporary files.
        fuse: as for optimize_by_runtime().
    """
    import onnxslim  # with sympy it takes longer to import than everything else

    slim: ModelProto = onnxslim.slim(model)
    return slim if graph.has_16_bit_floats(slim) else optimize_by_runtime(slim, scratch, fuse=fuse)


def optimize_by_runtime(model: ModelProto, scratch: Path, *, fuse: bool) -> ModelProto:
    """Return the graph that ONNX Runtime makes of a model when it loads it.

    Args:
        model: with its weights.
        scratch: a directory for temporary files.
        fuse: whether nodes may be fused to operators that only ONNX Runtime's CPU provider has: its level "extended",
            not "basic". Graphs of the levels above run only on machines like the one that saved them.
    """
    given, saved = scratch / "given.onnx", scratch / "saved.onnx"
    graph.write(model, given, INLINE_BYTES)
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if fuse else levels.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(saved)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{saved.name}.data")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
    return graph.read(saved)
