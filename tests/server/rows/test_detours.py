"""The number of rows, or a neighbour, that reaches a row by a detour: the graph is not called independent."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxserve_server.rows.analysis import analyse
from onnxserve_server.spec import Rows
from support.brute_force import Draw, specs, witness

CONSTANTS = {
    "before": np.int64(-1), "far": np.array([-99]), "zero": np.int64(0), "one": np.int64(1),
    "two": np.int64(2), "three": np.int64(3), "four": np.int64(4),
    "first": np.array([0]), "second": np.array([1]), "pair": np.array([2]), "four1": np.array([4]),
    "minus": np.array([-1]), "yes": np.bool_(True), "unit": np.float32(1), "zero8": np.uint8(0),
    "none": np.zeros(0, np.int64), "units": np.float32([1, 1]), "weights": np.float32([1, 2, 3, 4]),
    "odd": np.float32([1, 5, 3, 7, 2, 9]), "image": np.float32([[[1, 2, 9, 4]]]),
    "lone": np.eye(3, 4, dtype=np.float32)[None],
    "codes": np.arange(80, dtype=np.uint8).reshape(5, 16), "scales": np.float32([[1], [2], [3], [4], [5]]),
}  # fmt: skip

_ROW = "g (float[batch, 4] x) => (float[batch, 4] y) { s = Shape <end = 1> (x)  n = Squeeze (s, first)"
_PICK = """g (float[batch, 4] x) => (float[batch] y) { s = Shape <end = 1> (x)  n = Squeeze (s, first)
    r = Range (zero, n, one)"""
_COLLECTED = f"""{_ROW}  e, all = Loop (n, yes, zero) <body = b (int64 i, bool go, int64 s)
    => (bool on, int64 kept, int64 seen) {{ on = Identity (go)  kept = Identity (s)  seen = Identity (i) }}>"""
_FLAT = f"{_PICK}  f = Reshape (x, minus)  b = Mul (r, four)"

DEPENDENT = {
    "a shape whose elements are not followed": f"""{_ROW}  f = Cast <to = 1> (s)  q = Sqrt (f)  c = Ceil (q)
        i = Cast <to = 7> (c)  to = Concat <axis = 0> (i, minus)  w = Reshape (weights, to)
        p = ReduceMax <keepdims = 0> (w, second)  a = ReduceSum <keepdims = 0> (p)  y = Add (x, a) }}""",
    "scales of a resize": f"""{_ROW}  f = Cast <to = 1> (s)  by = Concat <axis = 0> (units, f)
        big = Resize (image, , by)  a = ReduceSum <keepdims = 0> (big)  y = Add (x, a) }}""",
    "sizes of a resize that keeps proportions": f"""{_ROW}  q = Concat <axis = 0> (four1, s)  to = Add (q, second)
        big = Resize <keep_aspect_ratio_policy = "not_larger", axes = [1, 2]> (image, , , to)
        a = ReduceSum <keepdims = 0> (big)  y = Add (x, a) }}""",
    "paddings that cancel out": f"""{_ROW}  q = Neg (s)  pads = Concat <axis = 0> (s, q)  moved = Pad (odd, pads)
        a = Gather (moved, two)  y = Add (x, a) }}""",
    "the place of an item that is inserted": f"""{_ROW}  k = Mod (n, two)  q = SequenceConstruct (weights)
        b = Neg (weights)  p = SequenceInsert (q, b, k)  a = SequenceAt (p, zero)  y = Add (x, a) }}""",
    "the number of pieces": f"""{_ROW}  q = SplitToSequence (odd, n)  l = SequenceLength (q)
        a = Cast <to = 1> (l)  y = Add (x, a) }}""",
    "the number of pieces of what a loop collects": f"""{_COLLECTED}  q = SplitToSequence (all)
        l = SequenceLength (q)  a = Cast <to = 1> (l)  y = Add (x, a) }}""",
    "the number of passes of a scan": f"""{_COLLECTED}  c, d = Scan <num_scan_inputs = 1, body = r (int64 s, int64 e)
        => (int64 next, int64 seen) {{ next = Add (s, one)  seen = Identity (e) }}> (zero, all)
        a = Cast <to = 1> (c)  y = Add (x, a) }}""",
    "an index in reverse": f"""{_PICK}  c = Unsqueeze (r, minus)  m = ArgMax <axis = 1> (x)  z = Sub (m, m)
        i = Concat <axis = 1> (c, z)  j = Slice (i, minus, far, second, minus)  y = GatherND (x, j) }}""",
    "an offset that is clipped to before the row": f"""{_FLAT}  m = ArgMax <axis = 1, keepdims = 0> (x)
        e = Clip (m, zero, before)  i = Add (b, e)  y = Gather (f, i) }}""",
    "an index that begins with the row and ends with it": f"""{_PICK}  c = Unsqueeze (r, minus)
        i = Concat <axis = 1> (c, c)  wide = Concat <axis = 1> (x, x)  y = GatherND (wide, i) }}""",
    "an offset inside the row": f"{_FLAT}  e = Clip (n, zero, three)  i = Add (b, e)  y = Gather (f, i) }}",
    "an offset that is found by comparing": f"""{_FLAT}  nf = Cast <to = 1> (n)  d = Sub (weights, nf)  a = Abs (d)
        e = ArgMin <keepdims = 0> (a)  i = Add (b, e)  y = Gather (f, i) }}""",
    "a squeeze of no axes in particular": """g (float[batch, 1, 4] x) => (float[batch, 1, 4] y) {
        z = Squeeze (x, none)  y = Softmax <axis = -1> (z) }""",
    "a weight that hides one of the graph around": """g (float[batch, 4] x) => (float[batch, 4] y) {
        k = Identity (second)  y = If (yes) <then_branch = a () => (float[b, t] p) <int64[1] k = {0}> {
            m = ReduceMax <keepdims = 1> (x, k)  p = Add (x, m) },
            else_branch = d () => (float[b, t] q) { q = Neg (x) }> }""",
    "items of a sequence that differ in size": """g (float[batch, 4] x, int64[batch, 1] k) => (float[batch, 1] y) {
        b = Slice (x, first, pair, second)  q = SequenceConstruct (b)  all = SequenceInsert (q, x, zero)
        one_of = SequenceAt (all, zero)  other = SequenceAt (all, one)  t = Shape <start = 1> (other)
        to = Concat <axis = 0> (minus, t)  lines = Reshape (one_of, to)  y = GatherElements <axis = 1> (lines, k) }""",
    "a scale of quantized pieces": f"""{_ROW.replace("float", "uint8").replace("4] y", "8] y")}  f = Cast <to = 1> (n)
        y = com.microsoft.QLinearConcat <axis = 1> (f, zero8, x, unit, zero8, x, unit, zero8) }}""",
    "scales of a quantized table": """g (int64[batch, 3] x) => (float[batch, 3, 16] y) { s = Shape <end = 1> (x)
        f = Cast <to = 1> (s)  by = Mul (scales, f)
        y = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 32, quantize_axis = 1> (codes, x, by) }""",
    "rows that are added to one": """g (float[batch, 3, 4] x) => (float[batch, 3, 4] y) {
        y = com.microsoft.SkipLayerNormalization (lone, x, weights) }""",
    "a row number that is one of several": f"""{_PICK.replace("float[batch] y", "float[batch, 2, 1] y")}
        c = Unsqueeze (r, minus)  m = ArgMax <axis = 1> (x)  z = Sub (m, m)  i = Concat <axis = 1> (c, z)
        q = SequenceConstruct (i)  j = ConcatFromSequence <axis = -1, new_axis = 1> (q)
        v = ReduceMax (x, second)  y = GatherND (v, j) }}""",
    "the length of a part of what depends on the place": f"""{_PICK}  f = Reshape (x, minus)  c = Unsqueeze (r, minus)
        p = Cast <to = 7> (x)  q = Add (p, c)  h = Slice (q, first, pair, second)  s1 = Shape <start = 1> (h)
        k = Squeeze (s1)  i = Mul (r, k)  y = Gather (f, i) }}""",
    "a function that has the name of an operator": """g (float[batch, 4] x) => (float[batch, 4] y) {
        y = Hardmax <axis = 0> (x) }
    <domain: "", opset_import: ["" : 21]> Hardmax (a) => (b) { b = Neg (a) }""",
}  # fmt: skip


def made(text):
    head = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{head}\n{text}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    return model


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_detour_is_not_missed(name):
    model = made(DEPENDENT[name])
    assert analyse(model, *specs(model)).rows is not Rows.INDEPENDENT
    assert witness(model, draws={"x": Draw(5), "k": Draw(2)})


@pytest.mark.parametrize("opset", [11, 21])
@pytest.mark.parametrize("of_function", [11, 21])
def test_functions_are_run_with_the_opset_of_the_model(opset, of_function):
    """Before opset 13 a softmax takes all axes from its own on together."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>
        g (float[3, 4, batch] x) => (float[3, 4, batch] y) {{ y = own.f (x) }}
        <domain: "own", opset_import: ["" : {of_function}]> f (a) => (b) {{ b = Softmax <axis = 1> (a) }}"""
    )
    along = {"x": 2, "y": 2}
    assert analyse(model, *specs(model, axes=along)).rows is (Rows.MEET if opset == 11 else Rows.INDEPENDENT)
    assert bool(witness(model, axes=along)) is (opset == 11)


@pytest.mark.parametrize(("pads", "size"), [("0, 1", 3), ("1, 0", 4)])
def test_a_pooling_that_rounds_up_has_the_size_that_its_kernel_gives(pads, size):
    model = made(f"""g (float[batch, 1, 6] x) => (float[batch, {size}] y) {{
        p = MaxPool <kernel_shape = [2], strides = [2], pads = [{pads}], ceil_mode = 1> (x)
        to = Constant <value_ints = [-1, {size}]> ()  y = Reshape (p, to) }}""")
    assert analyse(model, *specs(model)).rows is Rows.INDEPENDENT
    assert witness(model) == ""


def test_the_last_piece_of_a_tensor_may_be_shorter():
    """Twice its length looks like that of a row, and is less."""
    model = made(f"""{_FLAT.replace("4] x)", "4] x, float[t] w)").replace("b = Mul (r, four)", "")}
        q = SplitToSequence (w, two)  p = SequenceAt (q, one)  l = Size (p)  d = Mul (l, two)  i = Mul (r, d)
        y = Gather (f, i) }}""")
    assert analyse(model, *specs(model, axes={"w": None})).rows is not Rows.INDEPENDENT
    assert witness(model, axes={"w": None}, sizes={"t": 3})
