"""Each operator that the analysis has a rule for, in a model of one node: along which axes rows may lie, along which not.

A case is an operator with inputs, by name: a type (f: float32, d: double, i: int64, j: int32, b: bool, u: uint8,
h: int16, U: uint32, s: text), a shape, and "<n" for numbers from 0 up to n; or an array, which is a constant. `carries` and `meets` list where
the rows lie: "x0 z0 >1" means along axis 0 of x and of z, and along axis 1 of the output.
"""

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from support.brute_force import Draw

MS, ML = "com.microsoft", "ai.onnx.ml"
TYPES = {
    "f": TensorProto.FLOAT, "d": TensorProto.DOUBLE, "i": TensorProto.INT64, "j": TensorProto.INT32,
    "b": TensorProto.BOOL, "u": TensorProto.UINT8, "s": TensorProto.STRING, "h": TensorProto.INT16, "U": TensorProto.UINT32,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One operator; `outputs` names those that are used by their types, "" for one that is left out."""

    op: str
    inputs: dict
    carries: tuple = ()
    meets: tuple = ()
    attributes: dict = field(default_factory=dict)
    domain: str = ""
    outputs: tuple = ("f",)
    opset: int = 21
    kernel: bool = True  # whether the CPU has one: without, the rule is read, not tried

    def model(self, where):
        """The model, and the axes of its inputs and outputs, for one entry of `carries` or `meets`."""
        rows, _, out = where.partition(">")
        axes = {place[:-1]: int(place[-1]) for place in rows.split()}
        first = next(iter(axes.values()))
        nodes, inputs, constants, names = [], [], [], []
        for name, given in self.inputs.items():
            names.append(name if given is not None else "")
            if isinstance(given, str):
                inputs.append(_declared(name, given, axes))
            elif given is not None:
                constants.append(numpy_helper.from_array(np.asarray(given), name))
        made = [f"y{k}" if kind else "" for k, kind in enumerate(self.outputs)]
        nodes = [helper.make_node(self.op, names, made, domain=self.domain, **self.attributes)]
        outputs = [
            helper.make_tensor_value_info(f"y{k}", TYPES[kind], None) for k, kind in enumerate(self.outputs) if kind
        ]
        opsets = [helper.make_opsetid("", self.opset)] + ([helper.make_opsetid(self.domain, 1)] if self.domain else [])
        if self.domain == ML:
            opsets[1].version = 3
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        along = {name: axes.get(name) for name in self.inputs}
        out = out.split()
        along |= {f"y{k}": int(out[min(k, len(out) - 1)]) if out else first for k in range(len(made))}
        return model, along

    def draws(self):
        """How the inputs are drawn."""
        limits = {
            name: given.split("<")[1] for name, given in self.inputs.items() if isinstance(given, str) and "<" in given
        }
        return {name: Draw(int(limit)) for name, limit in limits.items()}


def _declared(name, given, axes):
    kind, _, shape = given.partition("<")[0].partition(" ")
    sizes: list[object] = [int(size) for size in shape.split()]
    if name in axes:
        sizes[axes[name]] = "batch"
    return helper.make_tensor_value_info(name, TYPES[kind], sizes)


def _int(*values):
    return np.array(values, np.int64)


F = np.float32
RNG = np.random.default_rng(7)


def _w(*shape):
    return RNG.standard_normal(shape).astype(F)


def _u(*shape):
    return RNG.integers(0, 9, shape).astype(np.uint8)


ONE, ZERO8 = F(0.5), np.uint8(3)
SCALES = {"s": ONE, "z": ZERO8}
UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp"),
    *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal"),
    *(
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tan",
        "Tanh",
    ),
    "ThresholdedRelu",
)
BINARY = ("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
LOGIC = ("And", "Or", "Xor")
BITS = ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod")
REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
OUTER = ("x0 z1",)

CASES = [
    *(Case(op, {"x": "f 2 3"}, ("x0", "x1")) for op in UNARY),
    *(Case(op, {"x": "f 2 3", "z": "f 2 3"}, ("x0 z0",), OUTER) for op in BINARY),
    *(Case(op, {"x": "f 2 3", "z": "f 2 3"}, ("x0 z0",), OUTER, outputs=("b",)) for op in COMPARED),
    *(Case(op, {"x": "b 2 3", "z": "b 2 3"}, ("x0 z0",), OUTER, outputs=("b",)) for op in LOGIC),
    *(Case(op, {"x": "i 2 3<9", "z": "i 2 3<9"}, ("x0 z0",), OUTER, outputs=("i",)) for op in BITS if op != "Mod"),
    Case("Mod", {"x": "i 2 3<9", "z": _int(4)}, ("x0",), outputs=("i",)),
    Case("BitShift", {"x": "u 2 3<9", "z": "u 2 3<3"}, ("x0 z0",), OUTER, {"direction": "LEFT"}, outputs=("u",)),
    Case("BitwiseNot", {"x": "i 2 3<9"}, ("x0",), outputs=("i",)),
    Case("Not", {"x": "b 2 3"}, ("x0",), outputs=("b",)),
    Case("IsNaN", {"x": "f 2 3"}, ("x0",), outputs=("b",)),
    Case("IsInf", {"x": "f 2 3"}, ("x0",), outputs=("b",)),
    Case("Where", {"c": "b 2 3", "x": "f 2 3", "z": "f 2 3"}, ("c0 x0 z0",), ("c0 x1",)),
    Case("Clip", {"x": "f 2 3", "l": F(-1), "h": F(1)}, ("x0", "x1")),
    Case("Cast", {"x": "f 2 3"}, ("x0",), attributes={"to": 7}, outputs=("i",)),
    Case("CastLike", {"x": "f 2 3", "z": _int(0)}, ("x0",), outputs=("i",)),
    *(Case("Cast", {"x": f"{kind} 2 3<10000000000"}, (), ("x0", "x1"), {"to": 12}, outputs=("U",)) for kind in "fd"),
    *(Case("Cast", {"x": f"{kind} 2 3<10000000000"}, ("x0", "x1"), (), {"to": 12}, outputs=("U",)) for kind in "ib"),
    *(Case("Cast", {"x": f"{kind} 2 3<10000000000"}, ("x0", "x1"), (), {"to": to}, outputs=(made,)) for kind in "fd" for to, made in ((6, "j"), (7, "i"), (2, "u"), (5, "h"))),
    Case("CastLike", {"x": "f 2 3<10000000000", "z": np.uint32(0)}, (), ("x0",), outputs=("U",)),
    Case("StringConcat", {"x": "s 2 3", "z": "s 2 3"}, ("x0 z0",), OUTER, outputs=("s",)),
    Case("RegexFullMatch", {"x": "s 2 3"}, ("x0",), attributes={"pattern": "word[1-4]"}, outputs=("b",)),
    Case("StringNormalizer", {"x": "s 4"}, ("x0",), attributes={"case_change_action": "UPPER", "locale": "C"}, outputs=("s",)),
    Case("StringNormalizer", {"x": "s 4"}, (), ("x0",), {"stopwords": ["word1", "word2", "word3"], "is_case_sensitive": 1, "locale": "C"}, outputs=("s",)),
    Case("StringSplit", {"x": "s 2 1"}, (), ("x0",), {"delimiter": " "}, outputs=("s", "i")),
    *(Case(f"Reduce{how}", {"x": "f 2 3", "a": _int(1)}, ("x0",), (), {"keepdims": 0}) for how in REDUCED),
    *(Case(f"Reduce{how}", {"x": "f 2 3", "a": _int(0)}, ("x1",), ("x0",)) for how in REDUCED),
    Case("ReduceMax", {"x": "f 2 3"}, (), ("x0", "x1")),
    *(Case(op, {"x": "f 2 3 4"}, ("x0", "x2"), ("x1",), {"axis": 1}, outputs=("i",)) for op in ("ArgMax", "ArgMin")),
    Case("TopK", {"x": "f 2 3", "k": _int(1)}, ("x0",), ("x1",), outputs=("f", "i")),
    *(Case(op, {"x": "f 2 3 4"}, ("x0", "x2"), ("x1",), {"axis": 1}) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Case(op, {"x": "f 2 3 4"}, ("x0",), ("x2",), {"axis": 1}, opset=11) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Case("CumProd", {"x": "f 2 3", "a": _int(1)}, ("x0",), ("x1",), opset=26, kernel=False),
    Case("BitCast", {"x": "f 2 3"}, ("x0",), (), {"to": 6}, outputs=("j",), opset=26, kernel=False),
    Case("Swish", {"x": "f 2 3"}, ("x0",), opset=24, kernel=False),
    Case("SimplifiedLayerNormalization", {"x": "f 2 3", "w": "f 3"}, ("x0",), ("x1 w0",), {"axis": -1}),
    Case("CumSum", {"x": "f 2 3", "a": _int(1)}, ("x0",), ("x1",)),
    Case("LpNormalization", {"x": "f 2 3"}, ("x0",), ("x1",)),
    Case("LayerNormalization", {"x": "f 2 3", "w": "f 3"}, ("x0",), ("x1 w0",), {"axis": -1}),
    Case("RMSNormalization", {"x": "f 2 3", "w": _w(3)}, ("x0",), (), {"axis": -1}, opset=23),
    Case("MeanVarianceNormalization", {"x": "f 2 3 4 4"}, ("x1",), ("x0", "x2")),
    Case("BatchNormalization", {"x": "f 2 3", "s": _w(3), "b": _w(3), "m": _w(3), "v": abs(_w(3))}, ("x0",)),
    Case("BatchNormalization", {"x": "f 2 3", "s": _w(3), "b": _w(3), "m": _w(3), "v": abs(_w(3))}, (), ("x0",), {"training_mode": 1}, outputs=("f", "f", "f")),
    Case("InstanceNormalization", {"x": "f 2 3 4", "s": _w(3), "b": _w(3)}, ("x0",), ("x2",)),
    Case("GroupNormalization", {"x": "f 2 4 4", "s": _w(4), "b": _w(4)}, ("x0",), ("x2",), {"num_groups": 2}),
    Case("LRN", {"x": "f 2 3 4 4"}, ("x0", "x2"), ("x1",), {"size": 3, "alpha": 1.0}),
    Case("DynamicQuantizeLinear", {"x": "f 2 3"}, (), ("x0",), outputs=("u", "f", "u")),
    Case("QuantizeLinear", {"x": "f 2 3", **SCALES}, ("x0", "x1"), outputs=("u",)),
    Case("QuantizeLinear", {"x": "f 2 3", "s": "f 3", "z": _u(1)[0]}, (), ("x1 s0",), {"axis": 1}, outputs=("u",)),
    Case("DequantizeLinear", {"x": "u 2 3", **SCALES}, ("x0",)),
    Case("DequantizeLinear", {"x": "u 2 3", "s": abs(_w(3)), "z": _u(3)}, ("x0",), (), {"axis": 1}),
    Case("MatMul", {"x": "f 2 3", "w": "f 3 4"}, ("x0", "w1"), ("x1 w0", "x0 w1")),
    Case("MatMul", {"x": "f 2 3 4", "w": "f 2 4 5"}, ("x0 w0", "x1"), ("x1 w2",)),
    Case("MatMulInteger", {"x": "u 2 3<9", "w": _u(3, 4)}, ("x0",), outputs=("j",)),
    Case("MatMulInteger", {"x": "u 2 3<9", "w": "u 3 4<9"}, (), ("x1 w0",), outputs=("j",)),
    Case("QLinearMatMul", {"x": "u 2 3<9", "s": ONE, "z": ZERO8, "w": _u(3, 4), "s2": ONE, "z2": ZERO8, "s3": ONE, "z3": ZERO8}, ("x0",), outputs=("u",)),
    Case("QLinearMatMul", {"x": "u 2 3<9", "s": ONE, "z": ZERO8, "w": "u 3 4<9", "s2": ONE, "z2": ZERO8, "s3": ONE, "z3": ZERO8}, (), ("x1 w0",), outputs=("u",)),
    Case("Gemm", {"x": "f 2 3", "w": "f 3 4", "c": _w(4)}, ("x0",), ("x1 w0",)),
    Case("Gemm", {"x": "f 3 2", "w": _w(3, 4)}, ("x1 >0",), (), {"transA": 1}),
    Case("Einsum", {"x": "f 2 3 4", "w": "f 4 5"}, ("x0", "x1", "w1 >2"), ("x2 w0",), {"equation": "bij,jk->bik"}),
    Case("Einsum", {"x": "f 2 3", "z": "f 2 3"}, ("x0 z0",), ("x1 z1 >0",), {"equation": "bi,bi->b"}),
    Case("Conv", {"x": "f 2 3 5", "w": _w(4, 3, 3)}, ("x0",), ("x2",), {"pads": [1, 1]}),
    Case("ConvInteger", {"x": "u 2 3 5 5<9", "w": _u(4, 3, 3, 3)}, ("x0",), ("x2",), {"pads": [1, 1, 1, 1]}, outputs=("j",)),
    Case("ConvTranspose", {"x": "f 2 3 5", "w": _w(3, 4, 3)}, ("x0",), ("x2",), {"pads": [1, 1]}),
    Case("DeformConv", {"x": "f 2 3 4 4", "w": _w(4, 3, 3, 3), "o": "f 2 18 2 2"}, ("x0 o0",)),
    Case("QLinearConv", {"x": "u 2 3 5 5<9", "s": ONE, "z": ZERO8, "w": _u(4, 3, 3, 3), "s2": ONE, "z2": ZERO8, "s3": ONE, "z3": ZERO8}, ("x0",), ("x2",), {"pads": [1, 1, 1, 1]}, outputs=("u",)),
    *(Case(op, {"x": "f 2 3 5"}, ("x0", "x1"), ("x2",), {"kernel_shape": [3], "pads": [1, 1]}) for op in ("AveragePool", "MaxPool", "LpPool")),
    *(Case(f"Global{op}Pool", {"x": "f 2 3 5"}, ("x0", "x1"), ("x2",)) for op in ("Average", "Max", "Lp")),
    *(Case(op, {"x": "f 2 3 4", "w": _w(1, n * 5, 4), "r": _w(1, n * 5, 5)}, ("x1 >2",), ("x0",), {"hidden_size": 5}) for op, n in (("RNN", 1), ("GRU", 3), ("LSTM", 4))),
    Case("LSTM", {"x": "f 3 2 4", "w": _w(1, 20, 4), "r": _w(1, 20, 5), "b": None, "l": "j 2<3", "h": "f 1 2 5", "c": "f 1 2 5"}, ("x1 l0 h1 c1 >2 1 1",), (), {"hidden_size": 5}, outputs=("f", "f", "f")),
    Case("Reshape", {"x": "f 2 3 4", "s": _int(0, 12)}, ("x0",)),
    Case("Reshape", {"x": "f 2 3", "s": _int(-1, 3)}, ("x0",)),
    Case("Reshape", {"x": "f 2 2", "s": _int(-1)}, (), ("x0",)),
    Case("Flatten", {"x": "f 2 3 4"}, ("x0",), ("x1",)),
    Case("Transpose", {"x": "f 2 3 4"}, ("x0 >2", "x1 >1"), (), {"perm": [2, 1, 0]}),
    Case("Unsqueeze", {"x": "f 2 3", "a": _int(0)}, ("x0 >1",)),
    Case("Squeeze", {"x": "f 2 1 3", "a": _int(1)}, ("x0",)),
    Case("Squeeze", {"x": "f 2 1 3", "a": _int(0)}, (), ("x0",)),
    Case("Expand", {"x": "f 2 1", "s": _int(1, 3)}, ("x0",)),
    Case("Tile", {"x": "f 2 3", "r": _int(1, 2)}, ("x0",)),
    Case("Tile", {"x": "f 2 3", "r": _int(2, 1)}, ("x1",), ("x0",)),
    Case("Shape", {"x": "f 2 3"}, (), ("x0",), outputs=("i",)),
    Case("Size", {"x": "f 2 3"}, (), ("x0",), outputs=("i",)),
    Case("Slice", {"x": "f 2 3", "s": _int(1), "e": _int(3), "a": _int(1)}, ("x0",)),
    Case("Slice", {"x": "f 2 3", "s": _int(-1), "e": _int(-9), "a": _int(0), "t": _int(-1)}, ("x1",), ("x0",)),
    Case("Split", {"x": "f 2 4"}, ("x0",), (), {"axis": 1, "num_outputs": 2}, outputs=("f", "f")),
    Case("Split", {"x": "f 2 4", "l": _int(1, 3)}, ("x0",), (), {"axis": 1}, outputs=("f", "f")),
    Case("Concat", {"x": "f 2 3", "z": "f 2 3"}, ("x0 z0",), ("x1 z1",), {"axis": 1}),
    Case("Pad", {"x": "f 2 3", "p": _int(0, 1, 0, 1)}, ("x0",), ("x1",)),
    *(Case(op, {"x": "f 2 4 4 4"}, ("x0",), ("x1",) if op == "SpaceToDepth" else ("x2",), {"blocksize": 2}) for op in ("DepthToSpace", "SpaceToDepth")),
    Case("Trilu", {"x": "f 2 3 3"}, ("x0",), ("x1",)),
    Case("Gather", {"w": _w(5, 3), "x": "i 2 3<5"}, ("x0", "x1")),
    Case("Gather", {"x": "f 2 3", "i": _int(0, -1)}, ("x1",), ("x0",)),
    Case("GatherElements", {"x": "f 2 3", "i": "i 2 2<3"}, ("x0 i0",), (), {"axis": 1}),
    Case("GatherElements", {"x": "f 4 3", "i": "i 2 3<1"}, (), ("x0",), {"axis": 0}),
    Case("GatherND", {"x": "f 2 3", "i": "i 2 1<3"}, ("x0 i0",), (), {"batch_dims": 1}),
    Case("GatherND", {"x": "f 2 3", "i": _int(0)}, (), ("x0",)),
    Case("ScatterElements", {"x": "f 2 3", "i": "i 2 2<3", "u": "f 2 2"}, ("x0 i0 u0",), (), {"axis": 1, "reduction": "add"}),
    Case("ScatterElements", {"x": _w(5), "i": "i 2<5", "u": "f 2"}, (), ("i0 u0",), {"reduction": "add"}),
    Case("ScatterND", {"x": "f 3 2", "i": np.array([[0], [2]]), "u": "f 2 2"}, ("x1 u1",), ()),
    Case("ScatterND", {"x": _w(5), "i": "i 2 1<5", "u": "f 2"}, (), ("i0 u0",), {"reduction": "add"}),
    Case("Scatter", {"x": "f 2 3", "i": "i 2 1<3", "u": "f 2 1"}, ("x0 i0 u0",), (), {"axis": 1}, opset=10),
    Case("OneHot", {"x": "i 2 3<4", "d": _int(4), "v": F([0, 1])}, ("x0", "x1")),
    Case("OneHot", {"x": "i 2 3<4", "d": _int(4), "v": F([0, 1])}, ("x0 >1",), (), {"axis": 0}),
    Case("EyeLike", {"x": "f 2 3"}, (), ("x0",)),
    Case("ReverseSequence", {"x": "f 4 2", "l": "i 2<4"}, ("x1 l0",), (), {"batch_axis": 1, "time_axis": 0}),
    Case("TensorScatter", {"x": "f 2 4 3", "u": "f 2 2 3", "i": "i 2<2"}, ("x0 u0 i0",), (), opset=24),
    Case("NonZero", {"x": "f 2 3"}, (), ("x0",), outputs=("i",)),
    Case("Compress", {"x": "f 2 3", "c": "b 2"}, (), ("x0 c0",), {"axis": 0}),
    Case("Unique", {"x": "i 2<3"}, (), ("x0",), outputs=("i",)),
    Case("NonMaxSuppression", {"x": "f 2 6 4", "s": "f 2 1 6", "m": _int(3), "t": F([0.5])}, (), ("x0 s0",), outputs=("i",)),
    Case("Resize", {"x": "f 2 3 4", "r": None, "s": F([1, 1, 2])}, ("x0",), ("x2",), {"mode": "linear"}),
    Case("Upsample", {"x": "f 2 3 4 4", "s": F([1, 1, 2, 2])}, ("x0",), ("x2",), opset=9),
    Case("Attention", {"q": "f 2 2 3 4", "k": "f 2 2 5 4", "v": "f 2 2 5 4", "m": "f 2 1 3 5"}, ("q0 k0 v0 m0",), opset=23),
    Case("Attention", {"q": "f 2 2 3 4", "k": "f 2 2 5 4", "v": "f 2 2 5 4"}, ("q0 k0 v0",), ("k2 v2",), opset=23),
    Case("RotaryEmbedding", {"x": "f 2 2 3 4", "c": _w(9, 2), "s": _w(9, 2), "p": "i 2 3<9"}, ("x0 p0",), (), opset=23),
    Case("DFT", {"x": "f 2 4 1", "n": None, "a": _int(1)[0]}, ("x0",), ("x1",)),
    Case("Col2Im", {"x": "f 2 4 9", "i": _int(4, 4), "b": _int(2, 2)}, ("x0",)),
    Case("CenterCropPad", {"x": "f 2 5", "s": _int(3)}, ("x0",), ("x1",), {"axes": [1]}),
    Case("TfIdfVectorizer", {"x": "i 2 3<4"}, ("x0",), (), {"max_gram_length": 1, "max_skip_count": 0, "min_gram_length": 1, "mode": "TF", "ngram_counts": [0], "ngram_indexes": [0, 1, 2], "pool_int64s": [0, 1, 2]}),
    Case("TfIdfVectorizer", {"x": "i 3<4"}, (), ("x0",), {"max_gram_length": 1, "max_skip_count": 0, "min_gram_length": 1, "mode": "TF", "ngram_counts": [0], "ngram_indexes": [0, 1, 2], "pool_int64s": [0, 1, 2]}),
    Case("Dropout", {"x": "f 2 3"}, ("x0", "x1")),
    Case("GridSample", {"x": "f 2 3 4 4", "g": "f 2 3 3 2"}, ("x0 g0",)),
    Case("GridSample", {"x": "f 2 3 4 4", "g": _w(2, 3, 3, 2)}, (), ("x2",)),
    Case("RoiAlign", {"x": _w(2, 3, 8, 8), "r": "f 2 4<8", "b": "i 2<2"}, ("r0 b0",), (), {"coordinate_transformation_mode": "output_half_pixel"}),
    Case("RoiAlign", {"x": "f 2 3 8 8", "r": F([[0, 0, 4, 4]] * 3), "b": _int(0, 0, 0)}, (), ("x0",)),
    Case("MaxRoiPool", {"x": _w(1, 3, 8, 8), "r": "f 2 5<1"}, ("r0",), (), {"pooled_shape": [2, 2]}),
    Case("Det", {"x": "f 2 3 3"}, ("x0",)),
    Case("STFT", {"x": "f 2 16 1", "s": _int(4)[0], "w": _w(8)}, ("x0",)),
]  # fmt: skip
