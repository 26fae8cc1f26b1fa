"""Converts a graph to 16-bit floats."""

from pathlib import Path

from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnxserve_converters import graph
from onnxserve_converters.simplification import INLINE_BYTES


def to_float16(model: ModelProto, scratch: Path) -> ModelProto:
    """Return a graph that computes in float16; its inputs and outputs stay float32. Its nodes are not sorted.

    Args:
        model: with its weights, in the standard's operators alone: the types of all values must be known.
        scratch: a directory for temporary files.
    """
    given = scratch / "float32.onnx"
    graph.write(model, given, INLINE_BYTES)
    made: ModelProto = convert_float_to_float16(str(given), keep_io_types=True)
    return made
