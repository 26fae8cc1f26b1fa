"""As row_cases: operators of ai.onnx.ml and com.microsoft."""

import numpy as np

from support.row_cases import ML, MS, Case, F, _int, _u, _w

ONE, ZERO = F(0.5), np.uint8(3)


def _q(name, first=ONE):
    return {f"{name}s": first, f"{name}z": ZERO}


def _trees(kind):
    """Two stumps over the features 0 and 1."""
    common = {
        "nodes_falsenodeids": [2, 0, 0, 2, 0, 0], "nodes_featureids": [0, 0, 0, 1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2, "nodes_nodeids": [0, 1, 2, 0, 1, 2],
        "nodes_treeids": [0, 0, 0, 1, 1, 1], "nodes_truenodeids": [1, 0, 0, 1, 0, 0], "nodes_values": [0.1, 0, 0, -0.2, 0, 0],
    }  # fmt: skip
    leaves = {"nodeids": [1, 2, 1, 2], "treeids": [0, 0, 1, 1], "weights": [1.0, 2.0, 0.3, 0.7], "ids": [0, 0, 0, 0]}
    if kind == "target":
        return common | {"n_targets": 1} | {f"target_{key}": value for key, value in leaves.items()}
    ids = {"ids": [0, 1, 1, 0]}
    return common | {"classlabels_int64s": [3, 5]} | {f"class_{key}": value for key, value in (leaves | ids).items()}


SVM = {"coefficients": [1.0, -1.0, 0.5], "kernel_params": [0.5, 0.0, 3.0], "kernel_type": "RBF", "n_supports": 3,
       "rho": [0.1], "support_vectors": [float(each) for each in _w(9)]}  # fmt: skip
SVC = {"classlabels_ints": [0, 1], "coefficients": [1.0, -1.0], "kernel_params": [0.5, 0.0, 3.0], "kernel_type": "RBF",
       "rho": [0.1], "support_vectors": [float(each) for each in _w(6)], "vectors_per_class": [1, 1]}  # fmt: skip
LINEAR = {"coefficients": [1.0, 2.0, 3.0, -1.0, 0.0, 1.0], "intercepts": [0.1, 0.2]}
ML_CASES = [
    Case("Binarizer", {"x": "f 2 3"}, ("x0",), domain=ML),
    Case("LabelEncoder", {"x": "i 2<3"}, ("x0",), (), {"keys_int64s": [0, 1], "values_int64s": [7, 8]}, ML, ("i",)),
    Case("CategoryMapper", {"x": "i 2<3"}, ("x0",), (), {"cats_int64s": [0, 1], "cats_strings": ["a", "b"]}, ML, ("s",)),
    Case("FeatureVectorizer", {"x": "f 2 3", "z": "f 2 2"}, ("x0 z0",), (), {"inputdimensions": [3, 2]}, ML),
    Case("Imputer", {"x": "f 2 3"}, ("x0",), (), {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": 0.0}, ML),
    Case("LinearClassifier", {"x": "f 2 3"}, ("x0",), (), LINEAR | {"classlabels_ints": [0, 1]}, ML, ("i", "f")),
    Case("LinearRegressor", {"x": "f 2 3"}, ("x0",), (), LINEAR | {"targets": 2}, ML),
    Case("Normalizer", {"x": "f 2 3"}, ("x0",), ("x1",), {"norm": "L2"}, ML),
    Case("OneHotEncoder", {"x": "i 2<4"}, ("x0",), (), {"cats_int64s": [0, 1, 2, 3]}, ML),
    Case("Scaler", {"x": "f 2 3"}, ("x0",), (), {"offset": [1.0], "scale": [2.0]}, ML),
    Case("SVMRegressor", {"x": "f 2 3"}, ("x0",), (), SVM, ML),
    Case("SVMClassifier", {"x": "f 2 3"}, ("x0",), (), SVC, ML, ("i", "f")),
    Case("TreeEnsembleRegressor", {"x": "f 2 3"}, ("x0",), (), _trees("target"), ML),
    Case("TreeEnsembleClassifier", {"x": "f 2 3"}, ("x0",), (), _trees("class"), ML, ("i", "f")),
    Case("TreeEnsemble", {"x": "f 2 3"}, ("x0",), domain=ML, kernel=False),
    Case("ArrayFeatureExtractor", {"x": "f 2 3", "i": _int(1)}, ("x0",), domain=ML),
    Case("ArrayFeatureExtractor", {"x": _w(5), "i": "i 2<5"}, ("i0 >1",), domain=ML),
    Case("ArrayFeatureExtractor", {"x": "f 3", "i": _int(0)}, (), ("x0",), domain=ML),
]  # fmt: skip

HEADS = {"num_heads": 2}
QKV = {"x": "f 2 3 4", "w": _w(4, 12), "b": _w(12)}
CACHED = {"q": "f 2 1 4", "k": "f 2 1 4", "v": "f 2 1 4", "b": None, "m": "j 2 3<2", "r": None, "c": "f 2 2 2 2",
          "d": "f 2 2 2 2"}  # fmt: skip
MS_CASES = [
    Case("BiasGelu", {"x": "f 2 3", "b": _w(3)}, ("x0",), domain=MS),
    *(Case(op, {"x": "f 2 3"}, ("x0", "x1"), domain=MS) for op in ("FastGelu", "Gelu", "QuickGelu")),
    *(Case(op, {"x": "f 2 2", "z": "f 2 2"}, ("x0 z0",), domain=MS, kernel=False) for op in ("ComplexMul", "ComplexMulConj")),
    Case("MurmurHash3", {"x": "j 2<9"}, ("x0",), domain=MS, outputs=("U",)),
    Case("MatMulInteger16", {"x": "h 2 3<9", "w": "h 3 4<9"}, ("x0",), domain=MS, outputs=("j",), kernel=False),
    Case("MatMulIntegerToFloat", {"x": "u 2 3<9", "w": _u(3, 4), "s": ONE, "t": ONE}, ("x0",), domain=MS),
    Case("MatMulIntegerToFloat", {"x": "u 2 3<9", "w": "u 3 4<9", "s": ONE, "t": ONE}, (), ("x1 w0",), domain=MS),
    Case("FusedConv", {"x": "f 2 3 5 5", "w": _w(4, 3, 3, 3)}, ("x0",), ("x2",), {"activation": "Relu", "pads": [1] * 4}, MS),
    Case("FusedMatMul", {"x": "f 3 2", "w": "f 3 4"}, ("x1 >0",), ("x0 w0",), {"transA": 1}, MS),
    Case("TransposeMatMul", {"x": "f 3 2", "w": "f 3 4"}, ("x1 >0",), ("x0 w0",), {"transA": 1}, MS),
    Case("GemmFastGelu", {"x": "f 2 3", "w": "f 3 4"}, ("x0",), ("x1 w0",), {}, MS, kernel=False),
    Case("BiasAdd", {"x": "f 2 3", "b": _w(3), "k": "f 2 3"}, ("x0 k0",), domain=MS, kernel=False),
    Case("GroupNorm", {"x": "f 2 4 4 8", "g": _w(8), "b": _w(8)}, ("x0",), ("x1",), {"groups": 2}, MS, kernel=False),
    Case("LongformerAttention", {"x": "f 2 8 4", "w": _w(4, 12), "b": _w(12), "m": "f 2 8", "gw": _w(4, 12), "gb": _w(12), "g": "j 2 8<2"}, ("x0 m0 g0",), ("x1 m1 g1",), HEADS, MS, kernel=False),
    Case("MatMulBnb4", {"x": "f 2 16", "w": _u(32), "a": _w(1)}, ("x0",), ("x1",), {"K": 16, "N": 4, "block_size": 16, "quant_type": 1}, MS, kernel=False),
    Case("QEmbedLayerNormalization", {"i": "j 2 3<5", "n": None, "w": _u(5, 4), "p": _u(6, 4), "s": None, "g": _u(4), "b": _u(4)}, ("i0",), (), {}, MS, ("f", ""), kernel=False),
    Case("DynamicQuantizeLSTM", {"x": "f 3 2 4", "w": _u(1, 4, 20), "r": _u(1, 5, 20)}, (), ("x1 >2",), {"hidden_size": 5}, MS, kernel=False),
    Case("IsAllFinite", {"x": "f 2 3"}, (), ("x0",), {}, MS, ("b",), kernel=False),
    Case("QLinearReduceMean", {"x": "u 2 3 4<99", **_q("x"), **_q("y")}, ("x0", "x2"), ("x1",), {"axes": [1]}, MS, ("u",), kernel=False),
    Case("FusedGemm", {"x": "f 2 3", "w": "f 3 4", "c": _w(4)}, ("x0",), ("x1 w0",), {"activation": "Relu"}, MS),
    Case("Attention", QKV, ("x0",), ("x1",), HEADS, MS),
    Case("Attention", QKV | {"m": "j 2 3<2"}, ("x0 m0",), (), HEADS, MS),
    Case("MultiHeadAttention", {"q": "f 2 3 4", "k": "f 2 5 4", "v": "f 2 5 4"}, ("q0 k0 v0", "q1 >1")[:1], ("k1 v1",), HEADS, MS),
    Case("MultiHeadAttention", CACHED, ("q0 k0 v0 m0 c0 d0",), (), HEADS, MS, ("f", "f", "f")),
    Case("MultiHeadAttention", CACHED, (), ("q0 k0 v0 m0 c0 d0",), HEADS, MS),
    Case("QAttention", {"x": "u 2 3 4<9", "w": _u(4, 12), "b": _w(12), "s": ONE, "t": ONE, "m": None, "z": ZERO, "y": ZERO}, ("x0",), ("x1",), HEADS, MS),
    Case("EmbedLayerNormalization", {"i": "j 2 3<5", "n": None, "w": _w(5, 4), "p": _w(6, 4), "s": None, "g": _w(4), "b": _w(4)}, ("i0",), domain=MS, outputs=("f", "")),
    Case("SkipLayerNormalization", {"x": "f 2 3 4", "k": "f 2 3 4", "g": _w(4)}, ("x0 k0", "x1 k1"), (), {}, MS),
    Case("SkipSimplifiedLayerNormalization", {"x": "f 2 3 4", "k": "f 2 3 4", "g": _w(4)}, ("x0 k0",), domain=MS),
    Case("GroupQueryAttention", {"q": "f 2 1 16", "k": "f 2 1 16", "v": "f 2 1 16", "pk": "f 2 2 3 8", "pv": "f 2 2 3 8", "l": "j 2<3", "t": np.int32(4)}, ("q0 k0 v0 pk0 pv0 l0",), (), HEADS | {"kv_num_heads": 2}, MS, ("f", "f", "f")),
    Case("GroupQueryAttention", {"q": "f 2 1 16", "k": "f 2 1 16", "v": "f 2 1 16", "pk": "f 2 2 3 8", "pv": "f 2 2 3 8", "l": "j 2<3", "t": np.int32(4)}, (), ("q0 k0 v0 pk0 pv0 l0",), HEADS | {"kv_num_heads": 2}, MS),
    Case("RotaryEmbedding", {"x": "f 2 2 3 8", "p": "i 2 3<9", "c": _w(9, 4), "s": _w(9, 4)}, ("x0 p0",), domain=MS),
    Case("BiasSoftmax", {"x": "f 2 3 4", "b": _w(1, 3, 4)}, ("x0",), (), {"axis": 2, "is_inner_broadcast": 0}, MS, kernel=False),
    Case("BiasSplitGelu", {"x": "f 2 3 16", "b": _w(16)}, ("x0",), domain=MS, kernel=False),
    Case("CDist", {"x": "f 2 3", "z": "f 4 3"}, ("x0", "z0 >1"), ("x0 z0",), {"metric": "sqeuclidean"}, MS),
    Case("CropAndResize", {"x": _w(2, 3, 8, 8), "r": "f 2 4", "b": "j 2<2", "s": np.array([2, 2], np.int32)}, ("r0 b0",), domain=MS),
    Case("GridSample", {"x": "f 2 3 4 4", "g": "f 2 3 3 2"}, ("x0 g0",), domain=MS),
    Case("Inverse", {"x": "f 2 3 3"}, ("x0",), domain=MS),
    Case("MatMulNBits", {"x": "f 2 32", "w": _u(4, 1, 16), "s": abs(_w(4))}, ("x0",), (), {"K": 32, "N": 4, "bits": 4, "block_size": 32}, MS),
    Case("NGramRepeatBlock", {"x": "i 2 4<3", "s": "f 2 3"}, ("x0 s0",), (), {"ngram_size": 2}, MS),
    Case("NhwcMaxPool", {"x": "u 2 5 5 3<9"}, ("x0",), ("x1",), {"kernel_shape": [3, 3], "pads": [1] * 4}, MS, ("u",)),
    Case("DynamicQuantizeMatMul", {"x": "f 2 3", "w": _u(3, 4), "s": ONE}, (), ("x0",), domain=MS),
    Case("QuantizeLinear", {"x": "f 2 3", "s": ONE, "z": ZERO}, ("x0",), domain=MS, outputs=("u",)),
    Case("DequantizeLinear", {"x": "u 2 3<9", "s": ONE, "z": ZERO}, ("x0",), domain=MS),
    *(Case(op, {"x": "u 2 3<9", **_q("x"), "w": "u 2 3<9", **_q("w"), **_q("y")}, ("x0 w0",), ("x0 w1",), {}, MS, ("u",)) for op in ("QLinearAdd", "QLinearMul")),
    Case("QLinearConcat", {**_q("y"), "x": "u 2 3<9", **_q("x"), "w": "u 2 3<9", **_q("w")}, ("x0 w0",), ("x1 w1",), {"axis": 1}, MS, ("u",)),
    Case("QLinearSoftmax", {"x": "u 2 3<99", **_q("x", F(0.1)), "ys": F(1 / 256), "yz": np.uint8(0)}, ("x0",), ("x1",), {"axis": 1, "opset": 13}, MS, ("u",)),
    *(Case(op, {"x": "u 2 3<9", **_q("x"), **_q("y")}, ("x0",), (), {}, MS, ("u",)) for op in ("QLinearLeakyRelu", "QLinearSigmoid")),
    Case("QLinearGlobalAveragePool", {"x": "u 2 3 4 4<99", **_q("x"), **_q("y")}, ("x0",), ("x2",), {"channels_last": 0}, MS, ("u",)),
    Case("QLinearAveragePool", {"x": "u 2 3 4 4<99", **_q("x"), **_q("y")}, ("x0",), ("x2",), {"kernel_shape": [3, 3], "pads": [1] * 4}, MS, ("u",)),
    Case("QLinearWhere", {"c": "b 2 3", "x": "u 2 3<9", **_q("x"), "w": "u 2 3<9", **_q("w"), **_q("y")}, ("c0 x0 w0",), ("c1 x0",), {}, MS, ("u",)),
    Case("QGemm", {"x": "u 2 3<9", **_q("x"), "w": _u(3, 4), **_q("w"), "c": None, **_q("y")}, ("x0",), (), {}, MS, ("u",)),
    Case("QGemm", {"x": "u 2 3<9", **_q("x"), "w": "u 3 4<9", **_q("w"), "c": None, **_q("y")}, (), ("x1 w0",), {}, MS, ("u",)),
    Case("GatherBlockQuantized", {"w": _u(5, 16), "x": "i 2 3<5", "s": abs(_w(5, 1))}, ("x0", "x1"), (), {"bits": 4, "block_size": 32, "quantize_axis": 1}, MS),
    Case("Unique", {"x": "f 2"}, (), ("x0",), domain=MS, outputs=("f", "i", "i")),
    Case("Tokenizer", {"x": "s 2 1"}, (), ("x0",), {"mark": 0, "mincharnum": 1, "pad_value": "#", "separators": [" "]}, MS, ("s",)),
]  # fmt: skip
