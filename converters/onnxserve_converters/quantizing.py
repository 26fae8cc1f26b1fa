"""Quantizes graphs to 8-bit integers: activations scaled at each run (dynamic), or by samples (static)."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from onnx import ModelProto
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

from onnxserve.tensor import Array
from onnxserve_converters import graph
from onnxserve_converters.cases import Cases
from onnxserve_converters.simplification import INLINE_BYTES, optimize_by_runtime

# Convolutions stay as they are: onnxruntime 1.31.1 runs dynamically quantized ones up to seven times slower.
_DYNAMIC_OPS = ["Gemm", "LSTM", "MatMul"]

# Operators that compute, and those that pass 8-bit values on. Softmax and Sigmoid are left out: they usually end a
# graph, and 8 bits would give probabilities steps of 1/256.
_STATIC_OPS = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "LeakyRelu", "Clip", "Gather"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "Concat", "Flatten", "Pad", "Reshape", "Resize", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
]
_PER_CHANNEL_OPSET = 13  # from this on DequantizeLinear has an axis

_QUANTIZED = {"DequantizeLinear", "DynamicQuantizeLinear", "com.microsoft.DynamicQuantizeLSTM"}


def quantize_dynamic(model: ModelProto, scratch: Path) -> ModelProto:
    """Return a graph whose dense and LSTM layers have int8 weights and scale their activations to uint8 at each run.

    Args:
        model: with its weights, and without inner shapes: quantization transposes some weights, whose shapes would
            then be wrong.
        scratch: a directory for temporary files.
    """
    folded = optimize_by_runtime(model, scratch, fuse=False)  # the weights of an LSTM become one constant
    given, made = scratch / "float.onnx", scratch / "dynamic.onnx"
    graph.write(folded, given, INLINE_BYTES)
    quantization.quantize_dynamic(
        given,
        made,
        op_types_to_quantize=_DYNAMIC_OPS,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_large(folded),
    )
    return graph.read(made)


def quantize_static(model: ModelProto, scratch: Path, calibration: Cases) -> ModelProto:
    """Return a graph with int8 weights, scaled by channel, and uint8 activations in the ranges of the samples.

    Args:
        model: with its weights.
        scratch: a directory for temporary files.
        calibration: the graph is run on its samples, whole and cut to the size of each case.
    """
    folded = optimize_by_runtime(model, scratch, fuse=False)  # folds a BatchNormalization into its Conv
    _flatten_biases(folded)
    for i, node in enumerate(folded.graph.node):
        node.name = f"{node.op_type}_{i}"
    given, made = scratch / "float.onnx", scratch / "static.onnx"
    graph.write(folded, given, INLINE_BYTES)
    quantization.quantize_static(
        given,
        made,
        _Reader(chain(calibration.sampled(), (case.feeds for case in calibration))),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=_opset(folded) >= _PER_CHANNEL_OPSET,
        reduce_range=sums_saturate(),
        op_types_to_quantize=_STATIC_OPS,
        nodes_to_exclude=_mask_additions(folded),
        use_external_data_format=_is_large(folded),
    )
    return graph.read(made)


def sums_saturate(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether weights need 7 bits, for this processor adds pairs of 8-bit products in 16 bits, which may overflow.

    So do those of x86 without VNNI: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html,
    "When and why do I need to try U8U8?".
    """
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), [])
    return bool(flags) and {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


def is_quantized(model: ModelProto) -> bool:
    """Whether any node computes with scaled integers."""
    return not _QUANTIZED.isdisjoint(graph.operators(model))


class _Reader:
    """Implements ONNX Runtime's CalibrationDataReader."""

    def __init__(self, batches: Iterator[Mapping[str, Array]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next batch; None after the last."""
        return next(self._batches, None)


def _flatten_biases(model: ModelProto) -> None:
    """Give the biases of dense layers one axis: onnxruntime 1.31.1 cannot quantize those of [1, n]."""
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


def _mask_additions(model: ModelProto) -> list[str]:
    """Return the names of the additions before a Softmax: they add masks, of -inf or nearly so, to its scores.

    8 bits over so wide a range would leave no steps for the scores.
    """
    taken = {node.input[0] for node in model.graph.node if node.op_type == "Softmax"}
    return [node.name for node in model.graph.node if node.op_type == "Add" and node.output[0] in taken]


def _is_large(model: ModelProto) -> bool:
    return model.ByteSize() > INLINE_BYTES


def _opset(model: ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in graph.STANDARD)
