"""Small ONNX models for tests, each with one property that a serving system must cope with."""

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

BATCHED = "rows meet here, but do not change each other"
"""The text of a graph whose requests share runs nevertheless, if write() writes it."""

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def tensor(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes, inputs, outputs, initializers=(), metadata=None):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if metadata:
        helper.set_model_props(made, metadata)
    onnx.checker.check_model(made)
    return made


def constant(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.array(value, dtype), name)


def double():
    """y = 2 x, float32 [batch, 3]: the same bits at every batch size."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    return model(nodes, [tensor("x", ["batch", 3])], [tensor("y", ["batch", 3])], [constant("two", 2)])


FATAL = 1234566


def fatal():
    """y = 2 x, int64 [batch, 1]; where x is FATAL a division in the graph overflows, and that ends the process.

    Dividend and divisor are computed: the smallest number by -1. Nothing about the input itself is unusual.
    """
    odd = FATAL // 2
    to_smallest = (1 << 62) * pow(odd, -1, 1 << 63) % (1 << 63)  # times FATAL it is 1 << 63, which wraps
    nodes = [
        helper.make_node("Mul", ["x", "to_smallest"], ["dividend"]),
        helper.make_node("Sub", ["x", "next"], ["divisor"]),
        helper.make_node("Div", ["dividend", "divisor"], ["quotient"]),
        helper.make_node("Mul", ["x", "two"], ["y"]),
    ]
    constants = {"to_smallest": to_smallest, "next": FATAL + 1, "two": 2}
    return model(
        nodes,
        [tensor("x", ["batch", 1], INT64)],
        [tensor("y", ["batch", 1], INT64), tensor("quotient", ["batch", 1], INT64)],
        [constant(name, value, np.int64) for name, value in constants.items()],
    )


def identity(dtype):
    """y = x for an ONNX element type, [batch, 2]."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [tensor("x", ["batch", 2], dtype)], [tensor("y", ["batch", 2], dtype)])


def widening(width=250_000):
    """y = x in each of `width` columns, float32 [batch, 1]: a small request whose answer has a megabyte."""
    nodes = [helper.make_node("Mul", ["x", "ones"], ["y"])]
    ones = constant("ones", np.ones((1, width)))
    return model(nodes, [tensor("x", ["batch", 1])], [tensor("y", ["batch", width])], [ones])


def two_by_two():
    """Inputs a float32 [batch, 2] and b int64 [batch, 3]; outputs p = 2 a and q = b + 1."""
    nodes = [helper.make_node("Mul", ["a", "two"], ["p"]), helper.make_node("Add", ["b", "one"], ["q"])]
    inputs = [tensor("a", ["batch", 2]), tensor("b", ["batch", 3], INT64)]
    outputs = [tensor("p", ["batch", 2]), tensor("q", ["batch", 3], INT64)]
    return model(nodes, inputs, outputs, [constant("two", 2), constant("one", 1, np.int64)])


def constant_beside(outputs, nodes=(), initializers=(), inputs=()):
    """y = 2 x, float32 [batch, 3], and other outputs, of nodes that do not take x."""
    double_ = helper.make_node("Mul", ["x", "two"], ["y"])
    shapes = [tensor("x", ["batch", 3]), *inputs], [tensor("y", ["batch", 3]), *outputs]
    return model([double_, *nodes], *shapes, [constant("two", 2), *initializers])


def with_default(ir_version=10):
    """y = x - its largest along axes, float32 [batch, 4]; axes is an input, by default [1]: by [0] rows meet."""
    nodes = [helper.make_node("ReduceMax", ["x", "axes"], ["m"]), helper.make_node("Sub", ["x", "m"], ["y"])]
    made = model(nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])], [constant("axes", [1], np.int64)])
    made.graph.input.append(tensor("axes", [1], INT64))
    made.ir_version = ir_version
    return made


def mlp(width=64):
    """Two dense layers, float32 [batch, width] to [batch, 10]: kernels round differently at other batch sizes."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = [
        constant("w1", rng.standard_normal((width, width)) / 8),
        constant("w2", rng.standard_normal((width, 10)) / 8),
    ]
    return model(nodes, [tensor("x", ["batch", width])], [tensor("y", ["batch", 10])], weights)


def slow(factor=1):
    """y = x, float32 [batch, 1], after `factor` times as many steps as the largest x says, of half a millisecond each.

    Each step is a node of its own, so that ONNX Runtime can stop a run between them.
    """
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["m_in", "weight"], ["m_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "step",
        [tensor("i", [], INT64), tensor("go_in", [], TensorProto.BOOL), tensor("m_in", [384, 384])],
        [tensor("go_out", [], TensorProto.BOOL), tensor("m_out", [384, 384])],
        [constant("weight", np.eye(384))],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["steps"], to=INT64),
        helper.make_node("Loop", ["steps", "go", "start"], ["m"], body=body),
        helper.make_node("ReduceMax", ["m"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    initializers = [
        constant("go", True, np.bool_),
        constant("start", np.zeros((384, 384))),
        constant("factor", factor),
    ]
    made = model(nodes, [tensor("x", ["batch", 1])], [tensor("y", ["batch", 1])], initializers)
    made.graph.doc_string = BATCHED
    return made


def slow_wide():
    """As slow(), for x of [batch, k]: y, [batch, 1], is the largest of each row."""
    made = slow()
    del made.graph.input[:], made.graph.node[-1]
    made.graph.input.append(tensor("x", ["batch", "k"]))
    made.graph.initializer.append(constant("axis", [1], np.int64))
    made.graph.node.append(helper.make_node("ReduceMax", ["x", "axis"], ["row"]))
    made.graph.node.append(helper.make_node("Add", ["row", "zero"], ["y"]))
    onnx.checker.check_model(made)
    return made


def gather():
    """y = table[id], id int64 [batch, 1] from 0 to 9; any other id makes the run fail."""
    nodes = [helper.make_node("Gather", ["table", "id"], ["y"])]
    table = constant("table", np.arange(10) * 10)
    return model(nodes, [tensor("id", ["batch", 1], INT64)], [tensor("y", ["batch", 1])], [table])


def gather_from_nothing():
    """y = table[id], id int64 [batch], of a table without rows: each id makes the run fail."""
    nodes = [helper.make_node("Gather", ["table", "id"], ["y"])]
    return model(nodes, [tensor("id", ["batch"], INT64)], [tensor("y", ["batch"])], [constant("table", np.zeros(0))])


def fixed():
    """y = 2 x, float32 [4, 3]: no batch axis."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    return model(nodes, [tensor("x", [4, 3])], [tensor("y", [4, 3])], [constant("two", 2)])


def scaled():
    """y = s x, x float32 [batch, 2], s a float32 scalar; a scalar output, the largest y, too."""
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("ReduceMax", ["y"], ["largest"], keepdims=0)]
    return model(
        nodes, [tensor("x", ["batch", 2]), tensor("s", [])], [tensor("y", ["batch", 2]), tensor("largest", [])]
    )


def frozen():
    """Declares a free batch axis, but a Reshape inside knows one row alone, as frozen exports do."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return model(nodes, [tensor("x", ["batch", 2])], [tensor("y", ["batch", 2])], [constant("shape", [1, 2], np.int64)])


def one_row():
    """y = x, float32 [batch, 2] by all that the graph declares, but it runs with one row alone."""
    nodes = [
        helper.make_node("Squeeze", ["x", "axes"], ["row"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Expand", ["row", "shape"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["batch", 2])], [tensor("y", ["batch", 2])], [constant("axes", [0], np.int64)])


def mixing(axis=0):
    """Declares a free batch axis, [batch, 2] or [2, batch], but a row depends on the others: y = x - mean over rows."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    shape = [["batch", 2], [2, "batch"]][axis]
    return model(nodes, [tensor("x", shape)], [tensor("y", shape)], [constant("axes", [axis], np.int64)])


def sequence():
    """y = sum over the free axis seq of x times mask, both float32 [batch, seq]."""
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["y"], keepdims=0),
    ]
    inputs = [tensor("x", ["batch", "seq"]), tensor("mask", ["batch", "seq"])]
    return model(nodes, inputs, [tensor("y", ["batch"])], [constant("axes", [1], np.int64)])


def crashing():
    """A float16 LSTM that kills the process that loads it: onnxruntime 1.31.1, in its NchwcTransformer."""
    return lstm(TensorProto.FLOAT16)


def lstm(dtype=FLOAT, width=4):
    """An LSTM over a free axis seq and a dense layer on each of its steps: x [batch, seq, 2] to y [batch, seq, 5]."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["x"], ["by_step"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["by_step", "w", "r", "b"], ["steps"], hidden_size=width),
        helper.make_node("Squeeze", ["steps", "axis"], ["squeezed"]),
        helper.make_node("Transpose", ["squeezed"], ["by_row"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["by_row", "dense"], ["y"]),
    ]
    shapes = {"w": (1, 4 * width, 2), "r": (1, 4 * width, width), "b": (1, 8 * width), "dense": (width, 5)}
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    weights = [constant(name, rng.standard_normal(shape) / width**0.5, numpy_dtype) for name, shape in shapes.items()]
    return model(
        nodes,
        [tensor("x", ["batch", "seq", 2], dtype)],
        [tensor("y", ["batch", "seq", 5], dtype)],
        [*weights, constant("axis", [1], np.int64)],
    )


def of_a_sequence():
    """y = the first element of a sequence of tensors: an input that is no tensor."""
    of_tensors = helper.make_tensor_sequence_value_info("x", FLOAT, ["n"])
    nodes = [helper.make_node("SequenceAt", ["x", "first"], ["y"])]
    return model(nodes, [of_tensors], [tensor("y", ["n"])], [constant("first", 0, np.int64)])


def column():
    """y = x, float32 [batch]: a row is a scalar."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [tensor("x", ["batch"])], [tensor("y", ["batch"])])


RAGGED = 33.125
"""The largest value of x for which ragged() gives three columns; no made-up input has it."""


def ragged():
    """y = the first column of x, float32 [batch, 4], or the first three where the largest x is RAGGED."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Equal", ["largest", "ragged"], ["is_ragged"]),
        helper.make_node("Where", ["is_ragged", "three", "one"], ["ends"]),
        helper.make_node("Slice", ["x", "zero", "ends", "one"], ["y"]),
    ]
    numbers = [constant(name, [value], np.int64) for name, value in (("zero", 0), ("one", 1), ("three", 3))]
    return model(
        nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", "k"])], [*numbers, constant("ragged", RAGGED)]
    )


DROPPED = 77.125
"""The value of x that dropping() drops rows for; no made-up input has it."""


def dropping(rows="batch"):
    """y = the rows of x whose first value is not DROPPED, float32 x [batch, 4], y [rows, 4]: how many depends on x."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Equal", ["first", "dropped"], ["is_dropped"]),
        helper.make_node("Not", ["is_dropped"], ["stays"]),
        helper.make_node("Compress", ["x", "stays"], ["y"], axis=0),
    ]
    values = [constant("zero", 0, np.int64), constant("dropped", DROPPED)]
    return model(nodes, [tensor("x", ["batch", 4])], [tensor("y", [rows, 4])], values)


TRIGGER = 77.125
"""The value of x that makes triggered() double every row; no made-up input has it."""


def triggered():
    """y = x, or 2 x if any value of any row is TRIGGER; float32 [batch, 3]."""
    nodes = [
        helper.make_node("Equal", ["x", "trigger"], ["is_trigger"]),
        helper.make_node("Cast", ["is_trigger"], ["found"], to=FLOAT),
        helper.make_node("ReduceMax", ["found"], ["any"], keepdims=0),
        helper.make_node("Add", ["any", "one"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    values = [constant("trigger", TRIGGER), constant("one", 1)]
    return model(nodes, [tensor("x", ["batch", 3])], [tensor("y", ["batch", 3])], values)


def masks():
    """mask = position < length, int64 length [batch], bool mask [batch, as long as the longest of the batch]."""
    nodes = [
        helper.make_node("ReduceMax", ["length"], ["longest"], keepdims=0),
        helper.make_node("Range", ["zero", "longest", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["length", "axes"], ["ends"]),
        helper.make_node("Less", ["positions", "ends"], ["mask"]),
    ]
    values = [constant("zero", 0, np.int64), constant("one", 1, np.int64), constant("axes", [1], np.int64)]
    outputs = [tensor("mask", ["batch", "time"], TensorProto.BOOL)]
    return model(nodes, [tensor("length", ["batch"], INT64)], outputs, values)


def layered(metadata=None):
    """stateN = x + scale state, y = its sum over layers: x, y [batch, 3], state, stateN [2, batch, 3], scale a scalar.

    float32, and the same bits at every batch size.
    """
    nodes = [
        helper.make_node("Mul", ["scale", "state"], ["scaled"]),
        helper.make_node("Add", ["scaled", "x"], ["stateN"]),
        helper.make_node("ReduceSum", ["stateN", "axes"], ["y"], keepdims=0),
    ]
    inputs = [tensor("x", ["batch", 3]), tensor("state", [2, "batch", 3]), tensor("scale", [])]
    outputs = [tensor("y", ["batch", 3]), tensor("stateN", [2, "batch", 3])]
    return model(nodes, inputs, outputs, [constant("axes", [0], np.int64)], metadata)


def columns(dtype):
    """y = x for an ONNX element type, [2, batch]."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [tensor("x", [2, "batch"], dtype)], [tensor("y", [2, "batch"], dtype)])


def opaque():
    """y = x, float32 [2, batch], but what shape y has is seen only when it has been run."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Max", ["sizes", "zero"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    zero = constant("zero", 0, np.int64)
    return model(nodes, [tensor("x", [2, "batch"])], [tensor("y", [None, None])], [zero])


def suffixed():
    """y = x + suffix, strings: x and y [batch, 2], suffix a scalar."""
    nodes = [helper.make_node("StringConcat", ["x", "suffix"], ["y"])]
    inputs = [tensor("x", ["batch", 2], TensorProto.STRING), tensor("suffix", [], TensorProto.STRING)]
    return model(nodes, inputs, [tensor("y", ["batch", 2], TensorProto.STRING)])


def parse():
    """y = the numbers that the strings x say, [batch]; a string that says none makes the run fail, and is quoted."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)]
    return model(nodes, [tensor("x", ["batch"], TensorProto.STRING)], [tensor("y", ["batch"])])


def lookup():
    """y = table[id], id int64 [1, batch], table float32 [size]; an id that is not in the table makes the run fail."""
    nodes = [helper.make_node("Gather", ["table", "id"], ["y"])]
    return model(nodes, [tensor("id", [1, "batch"], INT64), tensor("table", ["size"])], [tensor("y", [1, "batch"])])


def weighted():
    """y = the sum of x times weight over the free axis k, float32: x [batch, k], weight [k]."""
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axes"], ["y"], keepdims=0),
    ]
    inputs = [tensor("x", ["batch", "k"]), tensor("weight", ["k"])]
    return model(nodes, inputs, [tensor("y", ["batch"])], [constant("axes", [1], np.int64)])


def table(columns):
    """y = the sum of inputs c0, c1, ..., float32 [batch, 1] each, as exports of tables have them."""
    names = [f"c{i}" for i in range(columns)]
    nodes = [helper.make_node("Sum", names, ["y"])]
    return model(nodes, [tensor(name, ["batch", 1]) for name in names], [tensor("y", ["batch", 1])])


def write(root, models, configs=None):
    """Write models (by name) as version 1 of a repository, with model.yaml texts where `configs` has them."""
    configs = dict(configs or {})
    for name, made in models.items():
        if made.graph.doc_string == BATCHED:
            configs[name] = _batched(configs.get(name, ""))
        folder = root / name / "1"
        folder.mkdir(parents=True)
        onnx.save(made, folder / "model.onnx")
    for name, text in configs.items():
        (root / name / "model.yaml").write_text(text)
    return root


def _batched(text):
    """A model.yaml that says that requests share runs, unless it says something of that already."""
    config = yaml.safe_load(text) or {}
    if not isinstance(config, dict) or "enabled" in (batching := config.get("batching") or {}):
        return text
    return yaml.safe_dump(config | {"batching": {"enabled": True} | batching})


def recurrent(states=("s",)):
    """y = 3 s', s' = s / 2 + x for each state, float32 [batch, 2]; x is the sum of what came, the older the less."""
    nodes, inputs, outputs = [], [tensor("x", ["batch", 2])], [tensor("y", ["batch", 2])]
    for name in states:
        nodes += [
            helper.make_node("Mul", [name, "half"], [f"{name}_halved"]),
            helper.make_node("Add", [f"{name}_halved", "x"], [f"{name}_out"]),
        ]
        inputs.append(tensor(name, ["batch", 2]))
        outputs.append(tensor(f"{name}_out", ["batch", 2]))
    nodes.append(helper.make_node("Mul", [f"{states[0]}_out", "three"], ["y"]))
    return model(nodes, inputs, outputs, [constant("half", 0.5), constant("three", 3)])


def slow_counter():
    """As slow(), and beside it a state: count_out = count + 1, float32 [batch, 1]."""
    made = slow()
    made.graph.node.append(helper.make_node("Add", ["count", "one_more"], ["count_out"]))
    made.graph.input.append(tensor("count", ["batch", 1]))
    made.graph.output.append(tensor("count_out", ["batch", 1]))
    made.graph.initializer.append(constant("one_more", 1))
    onnx.checker.check_model(made)
    return made


def countdown():
    """next = n - 1, done = (n <= 1), and a state: total_out = total + n; float32 [batch, 1]. So generators work."""
    nodes = [
        helper.make_node("Sub", ["n", "one"], ["next"]),
        helper.make_node("LessOrEqual", ["n", "one"], ["is_done"]),
        helper.make_node("Cast", ["is_done"], ["done"], to=FLOAT),
        helper.make_node("Add", ["total", "n"], ["total_out"]),
    ]
    inputs = [tensor("n", ["batch", 1]), tensor("total", ["batch", 1])]
    outputs = [tensor(name, ["batch", 1]) for name in ("next", "done", "total_out")]
    return model(nodes, inputs, outputs, [constant("one", 1)])


def summing():
    """s_out = s + the sum of x over its free axis k: x float32 [batch, k], s [batch, 1]. A row of x may be empty."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["s", "sum"], ["s_out"]),
    ]
    inputs = [tensor("x", ["batch", "k"]), tensor("s", ["batch", 1])]
    return model(nodes, inputs, [tensor("s_out", ["batch", 1])], [constant("axes", [1], np.int64)])


def gru():
    """A GRU as torch exports it, batch_first: float32 x [batch, time, 4] to y [batch, time, 3]. No time: SIGABRT."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "w", "r"], ["states"], hidden_size=3),
        helper.make_node("Squeeze", ["states", "axis"], ["by_steps"]),
        helper.make_node("Transpose", ["by_steps"], ["y"], perm=[1, 0, 2]),
    ]
    weights = [constant("w", rng.standard_normal((1, 9, 4))), constant("r", rng.standard_normal((1, 9, 3)))]
    inputs, outputs = [tensor("x", ["batch", "time", 4])], [tensor("y", ["batch", "time", 3])]
    return model(nodes, inputs, outputs, [*weights, constant("axis", [1], np.int64)])


def steps_first():
    """A GRU as torch exports it without batch_first: float32 x [time, batch, 4] to y [time, batch, 3]."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["states"], name="gru", hidden_size=3),
        helper.make_node("Squeeze", ["states", "axis"], ["y"]),
    ]
    weights = [constant("w", rng.standard_normal((1, 9, 4))), constant("r", rng.standard_normal((1, 9, 3)))]
    inputs, outputs = [tensor("x", ["time", "batch", 4])], [tensor("y", ["time", "batch", 3])]
    return model(nodes, inputs, outputs, [*weights, constant("axis", [1], np.int64)])


def quotient():
    """q = x / y, int64 [batch]. The smallest number by -1: SIGFPE."""
    nodes = [helper.make_node("Div", ["x", "y"], ["q"])]
    return model(nodes, [tensor(name, ["batch"], INT64) for name in "xy"], [tensor("q", ["batch"], INT64)])


def halves(width):
    """y = the first half of x by the second, int64 [batch, width]. The smallest number by -1: SIGFPE."""
    nodes = [
        helper.make_node("Split", ["x"], ["first", "second"], axis=1, num_outputs=2),
        helper.make_node("Div", ["first", "second"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["batch", width], INT64)], [tensor("y", ["batch", width // 2], INT64)])


def parts():
    """y = the first part of x by the second, of these sizes: int64 x [batch, 4], sizes [2]; as halves()."""
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["first", "second"], axis=1),
        helper.make_node("Div", ["first", "second"], ["y"]),
    ]
    inputs = [tensor("x", ["batch", 4], INT64), tensor("sizes", [2], INT64)]
    return model(nodes, inputs, [tensor("y", ["batch", None], INT64)])


def resized():
    """y = x, resized: float32 x [batch, 3, h, w], int64 size [2], each above 0."""
    nodes = [
        helper.make_node("Shape", ["x"], ["kept"], start=0, end=2),
        helper.make_node("Concat", ["kept", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    inputs = [tensor("x", ["batch", 3, "h", "w"]), tensor("size", [2], INT64)]
    return model(nodes, inputs, [tensor("y", ["batch", 3, None, None])])


def negated():
    """y = x / -1 - 1, int64 [batch, 1]. The smallest number: SIGFPE; y of the largest is that number."""
    nodes = [helper.make_node("Div", ["x", "minus_one"], ["n"]), helper.make_node("Sub", ["n", "one"], ["y"])]
    shapes = [tensor("x", ["batch", 1], INT64)], [tensor("y", ["batch", 1], INT64)]
    return model(nodes, *shapes, [constant("minus_one", -1, np.int64), constant("one", 1, np.int64)])


def fatal_inside(value):
    """y = -2^63 / (x - value - 1), int64 [batch]: x of `value`, an ordinary number, is fatal."""
    nodes = [helper.make_node("Sub", ["x", "next"], ["d"]), helper.make_node("Div", ["smallest", "d"], ["y"])]
    shapes = [tensor("x", ["batch"], INT64)], [tensor("y", ["batch"], INT64)]
    return model(nodes, *shapes, [constant("next", value + 1, np.int64), constant("smallest", -(2**63), np.int64)])


def endless():
    """y = x, float32 [batch, 2], after a loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Identity", ["v_in"], ["v_out"])],
        "step",
        [tensor("i", [], INT64), tensor("go_in", [], TensorProto.BOOL), tensor("v_in", ["batch", 2])],
        [tensor("go_out", [], TensorProto.BOOL), tensor("v_out", ["batch", 2])],
    )
    nodes = [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)]
    return model(nodes, [tensor("x", ["batch", 2])], [tensor("y", ["batch", 2])], [constant("true", True, bool)])


def endless_at(value):
    """y = x, int64 [batch], after a loop that never ends if the smallest x is `value`."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Identity", ["v_in"], ["v_out"])],
        "step",
        [tensor("i", [], INT64), tensor("go_in", [], TensorProto.BOOL), tensor("v_in", ["batch"], INT64)],
        [tensor("go_out", [], TensorProto.BOOL), tensor("v_out", ["batch"], INT64)],
    )
    nodes = [
        helper.make_node("ReduceMin", ["x"], ["smallest"], keepdims=0),
        helper.make_node("Equal", ["smallest", "value"], ["go"]),
        helper.make_node("Loop", ["", "go", "x"], ["y"], body=body),
    ]
    shapes = [tensor("x", ["batch"], INT64)], [tensor("y", ["batch"], INT64)]
    return model(nodes, *shapes, [constant("value", value, np.int64)])


def many_inputs(count):
    """Each y = x of 3 nameless axes, float32, but the last is made unique along the first. There no columns: SIGFPE."""
    inputs = [tensor(f"x{i}", [None] * 3) for i in range(count)]
    outputs = [tensor(f"y{i}", [None] * 3) for i in range(count)]
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(count - 1)]
    nodes.append(helper.make_node("Unique", [f"x{count - 1}"], [f"y{count - 1}"], axis=0))
    return model(nodes, inputs, outputs)


def widened(size):
    """y = x, float32 [batch, 1] to [batch, size]."""
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    shapes = [tensor("x", ["batch", 1])], [tensor("y", ["batch", size])]
    return model(nodes, *shapes, [constant("shape", [1, size], np.int64)])
