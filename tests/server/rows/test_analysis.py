"""The verdict of the graph on whole models: planted dependences are found, real shapes of models are proved."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxserve_server.rows.analysis import analyse, analyse_outputs
from onnxserve_server.spec import Rows, RowVerdict
from support import zoo
from support.brute_force import specs, witness

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def made(text, **constants):
    """A model from ONNX's own text format."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.array(each), name) for name, each in constants.items())
    return model


def verdict(model, **options):
    return analyse(model, *specs(model, **options))


DEPENDENT = {
    "floats that uint32 cannot hold, which become another number at another place": (
        "g (float[batch, 3] x) => (int64[batch, 3] y) { u = Cast<to=12>(x) m = Mod(u, nine) y = Cast<to=7>(m) }",
        "Cast",
    ),
    "the same after bounds, which NaN passes": (
        "g (float[batch, 3] x) => (uint32[batch, 3] y) { c = Clip(x, low, unit) y = Cast<to=12>(c) }",
        "Cast",
    ),
    "the same, of whole numbers made of floats, for two casts become one": (
        "g (float[batch, 3] x) => (uint32[batch, 3] y) { i = Cast<to=7>(x) y = Cast<to=12>(i) }",
        "Cast",
    ),
    "the same, of floats that stand for whole numbers": (
        "g (int64[batch, 3] x) => (uint32[batch, 3] y) {"
        " f = ai.onnx.ml.LabelEncoder<keys_int64s=[1], values_floats=[1e10]>(x) y = Cast<to=12>(f) }",
        "Cast",
    ),
    "whole numbers over their largest": (
        "g (int64[batch] x) => (int64[batch] y) { m = ReduceMax(x) y = Div(x, m) }",
        "ReduceMax",
    ),
    "a factor that one row in a million sets": (
        "g (float[batch, 2] x) => (float[batch, 2] y) { over = Greater(x, seven) o = Cast<to=1>(over)"
        " any = ReduceMax<keepdims=0>(o) one = Add(any, unit) y = Mul(x, one) }",
        "ReduceMax",
    ),
    "a mask as long as the longest": (
        "g (int64[batch] lengths) => (bool[batch, longest] mask) { m = ReduceMax<keepdims=0>(lengths)"
        " r = Range(zero, m, step) column = Unsqueeze(lengths, last) mask = Less(r, column) }",
        "ReduceMax",
    ),
    "a scale of all rows": (
        "g (float[batch, 4] x) => (float[batch, 4] y) { q, s, z = DynamicQuantizeLinear(x)"
        " y = DequantizeLinear(q, s, z) }",
        "DynamicQuantizeLinear",
    ),
    "rows that are left out": (
        "g (float[batch, 4] x) => (float[kept, 4] y) { m = ReduceMax<keepdims=0>(x, last) c = Greater(m, low)"
        " y = Compress<axis=0>(x, c) }",
        "Compress",
    ),
    "the number of rows": (
        "g (float[batch, 4] x) => (float[batch, 4] y) { s = Shape<end=1>(x) n = Cast<to=1>(s) y = Div(x, n) }",
        "Div",
    ),
    "the place of a row": (
        "g (float[batch, 4] x) => (float[batch, 4] y) { s = Shape<end=1>(x) n = Squeeze(s) r = Range(zero, n, step)"
        " f = Cast<to=1>(r) c = Unsqueeze(f, last) y = Add(x, c) }",
        "Cast",
    ),
    "every row with every other": (
        "g (float[batch, 4] x) => (float[batch, batch2] y) { t = Transpose(x) y = MatMul(x, t) }",
        "MatMul",
    ),
    "softmax over the rows": ("g (float[4, batch] x) => (float[4, batch] y) { y = Softmax<axis=1>(x) }", "Softmax"),
}  # fmt: skip
CONSTANTS = {
    "seven": np.float32(7), "unit": np.float32(1), "zero": np.int64(0), "step": np.int64(1), "last": np.array([-1]),
    "low": np.float32(0.5), "nine": np.uint32(9),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_planted_dependence_is_found_and_its_node_named(name):
    text, operator = DEPENDENT[name]
    model = made(text, **CONSTANTS)
    axes = {"x": 1, "y": 1} if "batch] x) => (float[4" in text else None
    found = verdict(model, axes=axes)
    assert found.rows is Rows.MEET
    assert operator in found.reason
    assert found.node in {name for node in model.graph.node for name in (*node.output, node.name)}


INDEPENDENT = {
    "reshapes by its own sizes": (
        "g (float[batch, t, 6] x) => (float[batch, t, 6] y) { s = Shape(x) b = Gather(s, zero) t = Gather(s, step)"
        " b1 = Unsqueeze(b, first) t1 = Unsqueeze(t, first) f = Concat<axis=0>(b1, t1, heads) h = Reshape(x, f)"
        " p = Transpose<perm=[0,2,1,3]>(h) m = Softmax<axis=-1>(p) q = Transpose<perm=[0,2,1,3]>(m)"
        " g = Concat<axis=0>(b1, t1, minus) y = Reshape(q, g) }"
    ),
    "rows and time in one axis and out again": (
        "g (float[batch, t, 6] x) => (float[batch, t, 2] y) { flat = Reshape(x, lines) h = MatMul(flat, weight)"
        " s = Shape<end=2>(x) f = Concat<axis=0>(s, minus) y = Reshape(h, f) }"
    ),
    "its own row by its number": (
        "g (float[batch, t, 6] x, int64[batch] at) => (float[batch, 6] y) { s = Shape<end=1>(x) n = Squeeze(s)"
        " r = Range(zero, n, step) c = Unsqueeze(r, last) a = Unsqueeze(at, last) i = Concat<axis=-1>(c, a)"
        " y = GatherND(x, i) }"
    ),
    "a part of each row that is written": (
        "g (float[batch, t] x) => (float[batch, t] y) { s = Shape<end=1>(x) n = Squeeze(s) r = Range(zero, n, step)"
        " row = Unsqueeze(r, last) u = Shape<start=1>(x) t = Squeeze(u) columns = Range(zero, t, step)"
        " place = Add(row, columns) size = Shape(place) i = Expand(row, size) j = Expand(columns, size)"
        " ii = Unsqueeze(i, last) jj = Unsqueeze(j, last) at = Concat<axis=-1>(ii, jj) z = Neg(x)"
        " y = ScatterND(x, at, z) }"
    ),
    "indices as many as the larger of two": (
        "g (float[batch, t, 6] x) => (float[batch, 2, 6] y) { s = Shape<end=1>(x) n = Squeeze(s)"
        " r = Range(zero, n, step) row = Unsqueeze(r, last) m = ReduceMax<keepdims=0>(x, last)"
        " v, best = TopK<axis=1>(m, pair) both = Max(row, best) size = Shape(both) i = Expand(row, size)"
        " ii = Unsqueeze(i, last) jj = Unsqueeze(best, last) at = Concat<axis=-1>(ii, jj) y = GatherND(x, at) }"
    ),
    "pixels at the places of a grid": (
        "g (float[batch, 4, 8, 8] x, float[batch, 2, 5, 3, 2] p) => (float[batch, 4, 5, 3] y)"
        " { two_each = Reshape(x, halves) grid = Reshape(p, grids) pixels = GridSample(two_each, grid)"
        " y = Reshape(pixels, whole) }"
    ),
    "zeros for each row": (
        "g (float[batch, 4] x) => (float[batch, 9] y) { s = Shape<end=1>(x) f = Concat<axis=0>(s, five)"
        " z = ConstantOfShape(f) y = Concat<axis=1>(x, z) }"
    ),
    "all of an axis up to the end that jax2tf writes": (
        "g (float[batch, 4] x) => (float[batch, 4] y) { y = Slice(x, first, billion, first) }"
    ),
    "the mean of each row": "g (float[batch, 4] x) => (float[batch] y) { y = ReduceMean<keepdims=0>(x, last) }",
    "a constant output": "g (float[batch, 4] x) => (float[batch, 4] y, float[2] z) { y = Relu(x) z = Identity(two) }",
    "rows that meet for nothing": "g (float[batch, 4] x) => (float[batch, 4] y) { m = ReduceMax(x) y = Relu(x) }",
}  # fmt: skip
CONSTANTS |= {
    "first": np.array([0]), "heads": np.array([2, 3]), "minus": np.array([-1]), "lines": np.array([-1, 6]),
    "pair": np.array([2]), "halves": np.array([-1, 2, 8, 8]), "grids": np.array([-1, 5, 3, 2]),
    "whole": np.array([-1, 4, 5, 3]),
    "weight": np.ones((6, 2), np.float32), "five": np.array([5]), "two": np.float32([1, 2]),
    "billion": np.array([10**9]),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEPENDENT)
def test_what_models_do_with_shapes_is_followed(name):
    model = made(INDEPENDENT[name], **CONSTANTS)
    assert verdict(model) == RowVerdict(Rows.INDEPENDENT)
    assert witness(model) == ""


def test_outputs_that_are_the_same_for_all_rows_are_named_whatever_the_verdict():
    model = made(INDEPENDENT["a constant output"], **CONSTANTS)
    assert analyse_outputs(model, *specs(model)) == (RowVerdict(Rows.INDEPENDENT), ("z",))
    text = (
        "g (float[batch, 4] x) => (float[batch, 4] y, float[2] z, int64[1] n)"
        " { m = ReduceMax(x) y = Div(x, m) z = Identity(two) n = Shape<end=1>(x) }"
    )
    found = analyse_outputs(made(text, **CONSTANTS), *specs(made(text, **CONSTANTS)))
    assert (found.verdict.rows, found.shared) == (Rows.MEET, ("z",))


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_may_lie_along_any_axis(axis):
    along = {"x": axis, "y": axis}
    model = made("g (float[a, b] x) => (float[a, b] y) { y = Softmax<axis=0>(x) }")
    assert verdict(model, axes=along).rows is (Rows.INDEPENDENT if axis else Rows.MEET)


def test_an_input_that_is_shared_may_be_used_for_all_rows():
    model = made("g (float[batch, k] x, float[k] w) => (float[batch, k] y) { y = Mul(x, w) }")
    assert verdict(model, axes={"w": None}).rows is Rows.INDEPENDENT
    assert verdict(model).rows is Rows.MEET


def test_two_axes_of_one_name_may_differ():
    """A reshape to sizes of another input is proved only if it could not move elements from row to row."""
    text = (
        "g (float[batch, t, 4] x, float[batch, t, 4] z) => (float[batch, t, 4] y)"
        " { s = Shape<start=1, end=2>(z) f = Concat<axis=0>(minus, s, four) y = Reshape(x, f) }"
    )
    assert verdict(made(text, minus=np.array([-1]), four=np.array([4]))).rows is Rows.UNKNOWN


def test_an_unknown_operator_is_named():
    node = helper.make_node("Puzzle", ["x"], ["y"], name="riddle", domain="com.example")
    model = helper.make_model(
        helper.make_graph([node], "g", [zoo.tensor("x", ["batch", 2])], [zoo.tensor("y", ["batch", 2])])
    )
    found = verdict(model)
    assert (found.rows, found.node) == (Rows.UNKNOWN, "riddle")
    assert found.reason == "output y: com.example.Puzzle: the analysis does not know this operator"


def test_a_function_is_followed_with_its_attributes():
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[batch, 4] x) => (float[batch, 4] y) { y = own.norm<along=AXIS>(x) }
    <domain: "own", opset_import: ["" : 21]>
    norm <along> (a) => (b) { b = Softmax<axis: int = @along>(a) }"""
    assert verdict(onnx.parser.parse_model(text.replace("AXIS", "1"))).rows is Rows.INDEPENDENT
    found = verdict(onnx.parser.parse_model(text.replace("AXIS", "0")))
    assert (found.rows, found.node) == (Rows.MEET, "b")


def endless(depth):
    """A function that calls the one before twice, `depth` times over: 2^depth nodes."""
    functions = [helper.make_function("own", "f0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [OPSET])]
    for k in range(1, depth):
        nodes = [
            helper.make_node(f"f{k - 1}", ["a"], ["c"], domain="own"),
            helper.make_node(f"f{k - 1}", ["c"], ["b"], domain="own"),
        ]
        functions.append(helper.make_function("own", f"f{k}", ["a"], ["b"], nodes, [OPSET]))
    graph = helper.make_graph(
        [helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")],
        "g",
        [zoo.tensor("x", ["batch", 2])],
        [zoo.tensor("y", ["batch", 2])],
    )
    return helper.make_model(graph, functions=functions, opset_imports=[OPSET, helper.make_opsetid("own", 1)])


OPSET = helper.make_opsetid("", 21)


@pytest.mark.parametrize("depth", [20, 60])
def test_a_graph_that_unfolds_without_end_is_given_up(depth):
    began = time.process_time()
    found = verdict(endless(depth))
    assert found.rows is Rows.UNKNOWN
    assert found.reason
    assert time.process_time() - began < 60


def test_a_recursive_function_is_given_up():
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[batch, 4] x) => (float[batch, 4] y) { y = own.again(x) }
    <domain: "own", opset_import: ["" : 21]>
    again (a) => (b) { b = own.again(a) }"""
    assert "nested" in verdict(onnx.parser.parse_model(text)).reason


def test_no_time_means_unknown():
    found = analyse(zoo.double(), *specs(zoo.double()), max_seconds=0)
    assert (found.rows, found.reason) == (Rows.UNKNOWN, "the analysis reached its time limit")


def test_a_file_that_is_no_model_is_unknown(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x99" * 64)
    assert analyse(tmp_path / "bad.onnx", [], []).rows is Rows.UNKNOWN
    assert analyse(tmp_path / "missing.onnx", [], []).rows is Rows.UNKNOWN


@pytest.mark.parametrize(
    "spoil",
    [
        lambda graph: graph.node[0].input.pop(),
        lambda graph: graph.node[0].attribute.clear(),
        lambda graph: graph.node[0].input.__setitem__(0, "nowhere"),
        lambda graph: graph.node[0].output.append("more"),
        lambda graph: graph.output[0].__setattr__("name", "elsewhere"),
        lambda graph: graph.initializer[0].dims.append(-5),
        lambda graph: graph.initializer[0].ClearField("raw_data"),
    ],
)
def test_a_graph_that_violates_the_standard_raises_nothing(spoil):
    for build in (zoo.frozen, zoo.one_row, zoo.mixing, zoo.gather):
        model = build()
        spoil(model.graph)
        assert isinstance(verdict(model), RowVerdict)


def test_weights_in_a_file_of_their_own_are_not_read(tmp_path):
    model = zoo.mlp()
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    assert analyse(tmp_path / "model.onnx", *specs(zoo.mlp())).rows is Rows.INDEPENDENT


@pytest.mark.parametrize("mode", [0, 1], ids=["fixed statistics", "training mode"])
@pytest.mark.parametrize(("bias", "rows"), [("zeros", Rows.INDEPENDENT), ("places", Rows.MEET)])
def test_a_batch_normalization_with_a_channel_for_each_row_is_one_of_layers(mode, bias, rows):
    """Keras normalizes layers so on TensorFlow; a bias that tells the places of rows is another for each batch size."""
    statistics = ", mean, variance" if mode else ""
    model = made(f"""g (float[batch, 3, 4] x) => (float[batch, 3, 4] y) {{
        to = Constant <value_ints = [1, -1, 4, 1]> ()  r = Reshape (x, to)  s = Shape <start = 1, end = 2> (r)
        ones = ConstantOfShape <value = float[1] {{1}}> (s)  zeros = ConstantOfShape (s)
        n = Squeeze (s)  zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()
        c = Range (zero, n, one)  places = Cast <to = 1> (c)
        z{statistics} = BatchNormalization <training_mode = {mode}> (r, ones, {bias}, zeros, ones)
        back = Constant <value_ints = [-1, 3, 4]> ()  y = Reshape (z, back) }}""")
    assert verdict(model).rows is rows
    assert bool(witness(model)) is (rows is Rows.MEET)
