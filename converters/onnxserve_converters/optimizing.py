"""Simplify a graph before it is published: onnxslim, then ONNX Runtime's own optimization, saved."""

from pathlib import Path

import onnxruntime
from onnx import ModelProto

from onnxserve_converters import graph

INLINE_BYTES = 1 << 30
"""A file on its way has its weights beside it when they are larger: protobuf takes no message of 2 GiB."""


def optimize(model: ModelProto, scratch: Path, *, fuse: bool) -> ModelProto:
    """Return a graph of fewer nodes that computes the same.

    One of 16-bit floats is left to onnxslim: ONNX Runtime would save with it the CPU's conversions to float32.

    Args:
        model: with its weights; it is changed.
        scratch: a folder for files on the way.
        fuse: as for rewrite().
    """
    import onnxslim  # with sympy it takes longer to import than all else

    slim: ModelProto = onnxslim.slim(model)
    return slim if graph.is_half(slim) else rewrite(slim, scratch, fuse=fuse)


def rewrite(model: ModelProto, scratch: Path, *, fuse: bool) -> ModelProto:
    """Return the graph that ONNX Runtime makes of a model when it loads it.

    Args:
        model: with its weights.
        scratch: a folder for files on the way.
        fuse: whether nodes may become such as only ONNX Runtime's CPU provider knows: its level "extended", not
            "basic". The levels above save graphs that belong to the machine they were made on.
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
