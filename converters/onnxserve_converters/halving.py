"""Store and compute floats in 16 bits."""

from pathlib import Path

from onnx import ModelProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnxserve_converters import graph
from onnxserve_converters.optimizing import INLINE_BYTES


def to_float16(model: ModelProto, scratch: Path) -> ModelProto:
    """Return a graph that computes in float16 between inputs and outputs that are float32 as before.

    Its nodes are not sorted.

    Args:
        model: with its weights, in operators of the standard: the types of all values must be known.
        scratch: a folder for files on the way.
    """
    given = scratch / "float32.onnx"
    graph.write(model, given, INLINE_BYTES)
    made: ModelProto = convert_float_to_float16(str(given), keep_io_types=True)
    return made
