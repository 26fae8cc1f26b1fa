"""Small graphs made at random, of many operators, with one input of rows along one of its axes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
UNARY = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Identity", "Exp", "Softplus")
BINARY = ("Add", "Sub", "Mul", "Max", "Min")
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum", "ReduceMin")
ALONG = ("Softmax", "LogSoftmax", "Hardmax")


class Maker:
    """Adds nodes one by one. A value is its name and its concrete shape for `rows` rows; -1 marks the axis of rows.

    The marks are what the maker believes, so that most graphs run; it is the analysis that has to know.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.values = [], [], []
        self.depth = 2 + self.rng.integers(6)

    def add(self, op, inputs, shape, **attributes):
        """Add a node; returns its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append((name, shape))
        return name

    def constant(self, array):
        """Add a constant; returns its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def pick(self):
        """One of the values, more often a late one."""
        index = len(self.values) - 1 - min(self.rng.geometric(0.6) - 1, len(self.values) - 1)
        return self.values[index]

    def step(self):
        """Add what one randomly chosen operator needs."""
        steps = (
            self.unary, self.binary, self.binary, self.reduction, self.along, self.transpose, self.reshape, self.matmul,
            self.gather, self.concat, self.cut, self.cumulated, self.top, self.by_size, self.layer, self.where, self.own_row,
            self.pad, self.expand, self.branch, self.loop, self.quantize,
        )  # fmt: skip
        return steps[self.rng.integers(len(steps))]()

    def axis(self, shape):
        return int(self.rng.integers(len(shape)))

    def unary(self):
        name, shape = self.pick()
        self.add(str(self.rng.choice(UNARY)), [name], shape)

    def binary(self):
        name, shape = self.pick()
        others = [
            (n, s)
            for n, s in self.values
            if len(s) <= len(shape) and all(a in (b, 1) for a, b in zip(s[::-1], shape[::-1], strict=False))
        ]
        if self.rng.random() < 0.3 or not others:
            other = self.constant(
                self.rng.standard_normal([1 if size == -1 else size for size in shape]).astype(np.float32)
            )
        else:
            other = others[self.rng.integers(len(others))][0]
        self.add(str(self.rng.choice(BINARY)), [name, other], shape)

    def reduction(self):
        name, shape = self.pick()
        k, keep = self.axis(shape), int(self.rng.random() < 0.7 or len(shape) == 1)
        left = [*shape[:k], *([1] if keep else []), *shape[k + 1 :]]
        self.add(str(self.rng.choice(REDUCTIONS)), [name, self.constant(np.array([k]))], left, keepdims=keep)

    def along(self):
        name, shape = self.pick()
        self.add(str(self.rng.choice(ALONG)), [name], shape, axis=self.axis(shape))

    def transpose(self):
        name, shape = self.pick()
        order = [int(k) for k in self.rng.permutation(len(shape))]
        self.add("Transpose", [name], [shape[k] for k in order], perm=order)

    def reshape(self):
        name, shape = self.pick()
        k = int(self.rng.integers(len(shape) + 1))
        if self.rng.random() < 0.5:
            self.add("Unsqueeze", [name, self.constant(np.array([k]))], [*shape[:k], 1, *shape[k:]])
        elif len(shape) > 1 and -1 in shape:
            row = shape.index(-1)
            rest = int(np.prod([size for size in shape if size != -1]))
            if row == 0 and rest:
                self.add("Reshape", [name, self.constant(np.array([-1, rest]))], [-1, rest])
            elif rest % 2 == 0:
                self.add("Reshape", [name, self.constant(np.array([2, -1]))], [2, rest // 2])

    def matmul(self):
        name, shape = self.pick()
        if len(shape) < 2:
            return
        if self.rng.random() < 0.3:
            flipped = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
            other = self.add("Transpose", [name], [shape[k] for k in flipped], perm=flipped)
            self.add("MatMul", [name, other], [*shape[:-1], shape[-2]])
        elif shape[-1] > 0:
            weight = self.constant(self.rng.standard_normal((shape[-1], 3)).astype(np.float32))
            self.add("MatMul", [name, weight], [*shape[:-1], 3])

    def gather(self):
        name, shape = self.pick()
        k = self.axis(shape)
        self.add("Gather", [name, self.constant(np.array([0, -1]))], [*shape[:k], 2, *shape[k + 1 :]], axis=k)

    def concat(self):
        name, shape = self.pick()
        same = [n for n, s in self.values if s == shape]
        k = self.axis(shape)
        other = same[self.rng.integers(len(same))]
        made = [*shape[:k], -1 if shape[k] == -1 else 2 * shape[k], *shape[k + 1 :]]
        self.add("Concat", [name, other], made, axis=k)

    def cut(self):
        name, shape = self.pick()
        k = self.axis(shape)
        start, end = (
            (0, 2**31 - 1) if self.rng.random() < 0.4 else (0, 1) if self.rng.random() < 0.5 else (-1, 2**31 - 1)
        )
        step = -1 if (start, end) == (-1, 2**31 - 1) and self.rng.random() < 0.5 else 1
        if step == -1:
            end = -(2**31)
        size = shape[k] if end == -(2**31) or (start, end) == (0, 2**31 - 1) else 1
        parts = [self.constant(np.array([each])) for each in (start, end, k, step)]
        self.add("Slice", [name, *parts], [*shape[:k], size, *shape[k + 1 :]])

    def cumulated(self):
        name, shape = self.pick()
        self.add("CumSum", [name, self.constant(np.int64(self.axis(shape)))], shape)

    def top(self):
        name, shape = self.pick()
        k = self.axis(shape)
        self.nodes.append(
            helper.make_node("TopK", [name, self.constant(np.array([1]))], [f"t{len(self.nodes)}", ""], axis=k)
        )
        self.values.append((self.nodes[-1].output[0], [*shape[:k], 1, *shape[k + 1 :]]))

    def by_size(self):
        name, shape = self.pick()
        size = self.add("Shape", [name], [len(shape)])
        self.values.pop()
        k = self.axis(shape)
        one = self.add("Gather", [size, self.constant(np.array([k]))], [1], axis=0)
        self.values.pop()
        real = self.add("Cast", [one], [1], to=FLOAT)
        self.values.pop()
        self.add("Div", [name, real], shape)

    def layer(self):
        name, shape = self.pick()
        if shape[-1] > 0:
            self.add("LayerNormalization", [name, self.constant(np.ones(shape[-1], np.float32))], shape, axis=-1)

    def where(self):
        name, shape = self.pick()
        condition = self.add("Greater", [name, self.constant(np.float32(0.1))], shape)
        self.values.pop()
        self.add("Where", [condition, name, self.constant(np.float32(2))], shape)

    def own_row(self):
        """Each row, or the row before it, by its number."""
        name, shape = self.pick()
        if shape[0] != -1:
            return
        count = self.add("Shape", [name], [1], end=1, start=0)
        self.values.pop()
        scalar = self.add("Squeeze", [count], [])
        self.values.pop()
        index = self.add("Range", [self.constant(np.int64(0)), scalar, self.constant(np.int64(1))], [-1])
        self.values.pop()
        if self.rng.random() < 0.5:
            index = self.add("Sub", [index, self.constant(np.int64(1))], [-1])
            self.values.pop()
        self.add("Gather", [name, index], shape, axis=0)

    def pad(self):
        name, shape = self.pick()
        k = self.axis(shape)
        pads = np.zeros(2 * len(shape), np.int64)
        pads[k] = 1
        made = [*shape[:k], -1 if shape[k] == -1 else shape[k] + 1, *shape[k + 1 :]]
        self.add("Pad", [name, self.constant(pads)], made)

    def expand(self):
        name, shape = self.pick()
        source, target = self.pick()
        size = self.add("Shape", [source], [len(target)])
        self.values.pop()
        if len(target) >= len(shape) and all(a in (b, 1) for a, b in zip(shape[::-1], target[::-1], strict=False)):
            self.add("Expand", [name, size], target)

    def branch(self):
        """A condition of all elements, or of a constant."""
        name, shape = self.pick()
        if self.rng.random() < 0.5:
            total = self.add("ReduceSum", [name], [], keepdims=0)
            self.values.pop()
        else:
            total = self.constant(np.float32(1))
        condition = self.add("Greater", [total, self.constant(np.float32(0))], [])
        self.values.pop()
        branches = [
            helper.make_graph([helper.make_node(op, [name], [f"{op}_{len(self.nodes)}"])], op, [],
                              [helper.make_tensor_value_info(f"{op}_{len(self.nodes)}", FLOAT, None)])
            for op in ("Relu", "Neg")
        ]  # fmt: skip
        self.add("If", [condition], shape, then_branch=branches[0], else_branch=branches[1])

    def loop(self):
        """The same step three times: of each element, or over an axis."""
        name, shape = self.pick()
        k = self.axis(shape)
        inner = [helper.make_node("Softmax", ["s_in"], ["h"], axis=k), helper.make_node("Add", ["h", name], ["s_out"]),
                 helper.make_node("Identity", ["go_in"], ["go_out"])]  # fmt: skip
        info = helper.make_tensor_value_info
        body = helper.make_graph(inner, "body", [info("i", INT64, []), info("go_in", TensorProto.BOOL, []), info("s_in", FLOAT, None)],
                                 [info("go_out", TensorProto.BOOL, []), info("s_out", FLOAT, None)])  # fmt: skip
        self.add("Loop", [self.constant(np.int64(3)), self.constant(np.bool_(True)), name], shape, body=body)

    def quantize(self):
        name, shape = self.pick()
        if self.rng.random() < 0.5:
            scale, zero = self.constant(np.float32(0.1)), self.constant(np.uint8(100))
            low = self.add("QuantizeLinear", [name, scale, zero], shape)
        else:
            low, scale, zero = (f"q{len(self.nodes)}{part}" for part in "lsz")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [name], [low, scale, zero]))
            self.values.append((low, shape))
        self.values.pop()
        self.add("DequantizeLinear", [low, scale, zero], shape)


def random_graph(seed):
    """A model, and the axes of its input x and of its output y."""
    maker = Maker(seed)
    shape = [3, 2, 4][: 1 + maker.rng.integers(3)]
    row = int(maker.rng.integers(len(shape))) if maker.rng.random() < 0.4 else 0
    shape = [*shape[:row], -1, *shape[row + 1 :]]
    maker.values.append(("x", shape))
    for _ in range(maker.depth):
        maker.step()
    name, left = maker.values[-1]
    out = left.index(-1) if -1 in left else 0
    if name == "x":
        name = maker.add("Relu", ["x"], shape)
    info = helper.make_tensor_value_info
    declared = ["batch" if size == -1 else size for size in shape]
    graph = helper.make_graph(
        maker.nodes, "g", [info("x", FLOAT, declared)], [info(name, FLOAT, None)], maker.constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": row, name: out}
