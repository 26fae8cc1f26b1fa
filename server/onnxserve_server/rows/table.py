"""The rules that are data: which axes each operator carries, and which it mixes.

notation.py says how to read a rule such as "nC*, _, _ -> nO~". What a rule does not fit has a function in one of the
modules *_rules.py; an operator that is neither here nor there is unknown to the analysis.
"""

from collections.abc import Mapping

ELEMENTWISE: Mapping[str, tuple[str, ...]] = {
    "": (
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd"),
        *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp"),
        *("Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu"),
        *("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow"),
        *("Reciprocal", "RegexFullMatch", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
        *("Softplus", "Softsign", "Sqrt", "StringConcat", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
        *("Where", "Xor"),
    ),
    "ai.onnx.ml": ("Binarizer", "CategoryMapper", "LabelEncoder"),
    "com.microsoft": (
        *("BiasAdd", "BiasGelu", "ComplexMul", "ComplexMulConj", "FastGelu", "Gelu", "MurmurHash3"),
        "QuickGelu",
    ),
}
"""By domain, operators that work element by element; their inputs are broadcast as numpy does."""

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)
"""They mix the elements along their axes; without any, all of them."""

SINCE_13_ALONG = ("Softmax", "LogSoftmax", "Hardmax")
"""They mix the elements along their axis; before opset 13 along those behind it, too."""

LAST_AXIS: Mapping[str, int] = {"LpNormalization": -1, "CumSum": 0, "CumProd": 0}
"""They mix the elements along one axis, which is an attribute with this default, or the second input."""

MATRIX_PRODUCTS: Mapping[tuple[str, str], tuple[int, int, tuple[int, ...]]] = {
    ("", "MatMul"): (0, 1, ()),
    ("", "MatMulInteger"): (0, 1, (2,)),
    ("", "QLinearMatMul"): (0, 3, (1, 2, 6, 7)),
    ("com.microsoft", "MatMulInteger16"): (0, 1, ()),
    ("com.microsoft", "MatMulIntegerToFloat"): (0, 1, (2, 4)),
}
"""By domain and operator, the places of the two matrices, and of what may be one for each line of the first."""

_LSTM = "TbI, DGI, DGH, DK, b, DbH, DbH, DP -> TDbH, DbH, DbH"
_LSTM_ROWS_FIRST = "bTI, DGI, DGH, DK, b, bDH, bDH, DP -> bTDH, bDH, bDH"

RECURRENT: Mapping[str, tuple[str, str]] = {
    "RNN": ("TbI, DGI, DGH, DK, b, DbH -> TDbH, DbH", "bTI, DGI, DGH, DK, b, bDH -> bTDH, bDH"),
    "GRU": ("TbI, DGI, DGH, DK, b, DbH -> TDbH, DbH", "bTI, DGI, DGH, DK, b, bDH -> bTDH, bDH"),
    "LSTM": (_LSTM, _LSTM_ROWS_FIRST),
}
"""By operator, the rule for layout 0 and that for layout 1."""

CONVOLUTIONS: Mapping[tuple[str, str], str] = {
    ("", "Conv"): "nC*, _, _ -> nO~",
    ("", "ConvInteger"): "nC*, _, _, _ -> nO~",
    ("", "ConvTranspose"): "nC*, _, _ -> nO~",
    ("", "DeformConv"): "nC*, _, n*, _, n* -> nO~",
    ("", "QLinearConv"): "nC*, _, _, _, _, _, _, _, _ -> nO~",
    ("com.microsoft", "FusedConv"): "nC*, _, _, nO* -> nO~",
    ("", "AveragePool"): "nc* -> nc~",
    ("", "LpPool"): "nc* -> nc~",
    ("", "MaxPool"): "nc* -> nc~",
    ("com.microsoft", "QLinearAveragePool"): "n*, _, _, _, _ -> n~",
}
"""By domain and operator; the sizes that they make are computed where they can be."""

_QUANTIZED = "@, _, _, _, _ -> @"
_CLASSIFIER = "nF -> n, nK"
_REGRESSOR = "nF -> nT"

NOTATION: Mapping[tuple[str, str], str] = {
    ("", "Dropout"): "@, _, _ -> @, @",
    ("", "GlobalAveragePool"): "nc* -> nc#",
    ("", "GlobalLpPool"): "nc* -> nc#",
    ("", "GlobalMaxPool"): "nc* -> nc#",
    ("", "InstanceNormalization"): "nC*, _, _ -> nC*",
    ("", "GroupNormalization"): "nC*, _, _ -> nC*",
    ("", "LRN"): "nC@ -> nC@",
    ("", "RoiAlign"): "_, rX, r -> rCHW",
    ("", "MaxRoiPool"): "_, rX -> rCHW",
    ("", "Det"): "@MN -> @",
    ("", "STFT"): "b*, _, _, _ -> bTF2",
    ("", "RandomNormalLike"): "@ -> @",
    ("", "RandomUniformLike"): "@ -> @",
    ("", "Bernoulli"): "@ -> @",
    ("", "Multinomial"): "nC -> nS",
    ("ai.onnx.ml", "FeatureVectorizer"): "nF, ... -> nG",
    ("ai.onnx.ml", "Imputer"): "nF -> nF",
    ("ai.onnx.ml", "LinearClassifier"): _CLASSIFIER,
    ("ai.onnx.ml", "LinearRegressor"): _REGRESSOR,
    ("ai.onnx.ml", "Normalizer"): "nF -> nF",
    ("ai.onnx.ml", "OneHotEncoder"): "@ -> @K",
    ("ai.onnx.ml", "Scaler"): "nF -> nF",
    ("ai.onnx.ml", "SVMClassifier"): _CLASSIFIER,
    ("ai.onnx.ml", "SVMRegressor"): _REGRESSOR,
    ("ai.onnx.ml", "TreeEnsemble"): _REGRESSOR,
    ("ai.onnx.ml", "TreeEnsembleClassifier"): _CLASSIFIER,
    ("ai.onnx.ml", "TreeEnsembleRegressor"): _REGRESSOR,
    ("com.microsoft", "Attention"): "bSD, _, _, b*, Xb*, b*, _ -> bSE, Xb*",
    ("com.microsoft", "BiasSplitGelu"): "@C, _ -> @D",
    ("com.microsoft", "CDist"): "aK, bK -> ab",
    ("com.microsoft", "CropAndResize"): "_, rX, r, _ -> rCHW",
    ("com.microsoft", "EmbedLayerNormalization"): "bS, bS, _, _, _, _, _, bS, bS -> bSH, b, bSH",
    ("com.microsoft", "GroupNorm"): "n*, _, _ -> n*",
    ("com.microsoft", "Inverse"): "@MN -> @MN",
    ("com.microsoft", "LongformerAttention"): "bSD, _, _, bS, _, _, bS -> bSD",
    ("com.microsoft", "MatMulBnb4"): "@K, _, _ -> @N",
    ("com.microsoft", "MatMulNBits"): "@K, _, _, _, _, _ -> @N",
    ("com.microsoft", "NGramRepeatBlock"): "bS, bV -> bV",
    ("com.microsoft", "NhwcMaxPool"): "n* -> n~",
    ("com.microsoft", "QAttention"): "bSD, _, _, _, _, b*, _, _, Xb* -> bSE, Xb*",
    ("com.microsoft", "QEmbedLayerNormalization"): (
        "bS, bS, _, _, _, _, _, bS, _, _, _, _, _, _, _, _, _, _ -> bSH, b"
    ),
    ("com.microsoft", "QLinearGlobalAveragePool"): "n*, _, _, _, _ -> n~",
    ("com.microsoft", "QLinearLeakyRelu"): _QUANTIZED,
    ("com.microsoft", "QLinearSigmoid"): _QUANTIZED,
}
"""By domain and operator."""

CACHED_ATTENTION: Mapping[str, tuple[str, int]] = {
    "GroupQueryAttention": ("bSD, bTK, bTV, b*, b*, b*, _, _, _, b*, b*, _ -> bSD, bNTH, bNTH, bNST", 3),
    "MultiHeadAttention": ("bSD, b*, b*, _, b*, b*, b*, b*, _, b* -> bSE, bNTH, bNTH, bNST", 6),
}
"""Of com.microsoft: the rule, and the place of the keys of earlier steps among the inputs."""

MEETING: Mapping[tuple[str, str], str] = {
    ("", "NonZero"): "how many elements it finds depends on all rows together",
    ("", "Compress"): "how many elements it keeps depends on all rows together",
    ("", "Unique"): "it compares every row with every other",
    ("", "NonMaxSuppression"): "how many boxes it keeps depends on all rows together",
    ("com.microsoft", "Unique"): "it compares every row with every other",
    ("com.microsoft", "DynamicQuantizeMatMul"): "its scale is computed from the values of all rows",
    ("com.microsoft", "DynamicQuantizeLSTM"): "its scale is computed from the values of all rows",
    ("com.microsoft", "IsAllFinite"): "it looks at all rows together",
}
"""By domain and operator, how rows meet there, along whichever axis they lie."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators of the standard that draw random numbers: the same row gives other values in another run."""
