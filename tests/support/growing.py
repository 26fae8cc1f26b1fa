"""Graphs that grow at random, node by node: each node is run at once, in all of RUNS, and kept if it runs in each."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
ORDERS = ([0], [1], [2], [3], [4], [0, 1], [2, 0, 1], [4, 3, 2, 1, 0], [0, 0], [0, 4, 3], [3, 2, 4, 1])
SIZES = ({"t": 3, "u": 2}, {"t": 2, "u": 4})
RUNS = [(order, sizes) for sizes in range(len(SIZES)) for order in ORDERS]
"""Which of five rows a run has, and which sizes the free axes have; the first five orders are rows alone."""
OPSETS = (11, 13, 18, 21)
_KINDS = {"f": FLOAT, "i": INT64, "b": BOOL, "u": TensorProto.UINT8}
_LARGEST = 2048


class Grown:
    """A value, and what it was in each of RUNS: an array, or a list of arrays."""

    def __init__(self, name, runs):
        self.name, self.runs = name, runs
        self.sequence = isinstance(runs[0], list)
        self.example = runs[ORDERS.index([4, 3, 2, 1, 0])]
        self.kind = _kind(self.example[0] if self.sequence else self.example)
        self.rank = -1 if self.sequence else self.example.ndim

    def is_free(self, k):
        """Whether axis k has different sizes in different runs."""
        return len({each.shape[k] for each in self.runs}) > 1


class Grower:
    """A graph that grows; `axes`: where the rows of its inputs lie, None for one that all rows share."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes, self.values, self.inputs, self.axes, self.constants = [], [], [], {}, {}
        self._input("x", FLOAT)
        for name, kind, shared, share in (("z", FLOAT, False, 0.5), ("k", INT64, False, 0.5), ("w", FLOAT, True, 0.4)):
            if self.rng.random() < share:
                self._input(name, kind, shared=shared)

    def _input(self, name, kind, *, shared=False):
        shape = [self.some(1, 2, 3, 4, "t", "u") for _ in range(1 + self.rng.integers(2 if shared else 4))]
        axis = None if shared else int(self.rng.integers(len(shape))) if self.rng.random() < 0.35 else 0
        if axis is not None:
            shape[axis] = "batch"
        drawn = [self._drawn(kind, [({"batch": 5} | sizes).get(size, size) for size in shape]) for sizes in SIZES]
        runs = [drawn[s] if axis is None else np.take(drawn[s], order, axis) for order, s in RUNS]
        self.inputs.append((name, kind, shape))
        self.axes[name] = axis
        self.values.append(Grown(name, runs))

    def _drawn(self, kind, shape):
        whole = kind == INT64
        return self.rng.integers(0, 3, shape) if whole else (self.rng.standard_normal(shape) * 2).astype(np.float32)

    def some(self, *options):
        """One of some options."""
        return options[self.rng.integers(len(options))]

    def constant(self, value):
        """Add a constant; returns its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def pick(self, kind=FLOAT, rank=0, where=lambda value: True):
        """One of the values of a kind, more often a late one.

        Raises:
            LookupError: there is none.
        """
        found = [v for v in self.values if not v.sequence and v.kind == kind and v.rank >= rank and where(v)]
        return self._one(found)

    def pick_sequence(self):
        """One of the sequences, as pick()."""
        return self._one([v for v in self.values if v.sequence])

    def _one(self, found):
        if not found:
            raise LookupError("no such value")
        late = min(int(self.rng.geometric(0.5)), len(found))
        return found[-late] if self.rng.random() < 0.5 else found[self.rng.integers(len(found))]

    def axis(self, value, more=0):
        """One of the axes of a value, from the front or from the end."""
        rank = value.rank + more
        if rank < 1:
            raise LookupError("it has no axes")
        k = int(self.rng.integers(rank))
        return k - rank if self.rng.random() < 0.3 else k

    def add(self, op, inputs, outputs=1, captured=(), **attributes):
        """Add a node; returns its outputs.

        Raises:
            LookupError: it does not run, or makes something too large, too small, or of changing rank.
        """
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        node = helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        runs = self._tried(node, [name for name in dict.fromkeys([*inputs, *captured]) if name])
        made = [Grown(name, [run[k] for run in runs]) for k, name in enumerate(names)]
        self.nodes.append(node)
        self.values += made
        return made

    def _tried(self, node, names):
        by_name = {value.name: value for value in self.values}
        fed = [by_name[name] for name in names if name not in self.constants]
        model = self._model([node], [_declared(value) for value in fed], node.output, names)
        try:
            session = _session(model)
            runs = [session.run(None, {value.name: value.runs[k] for value in fed}) for k in range(len(RUNS))]
        except Exception as error:  # whatever a kernel says of inputs that do not fit
            raise LookupError("it does not run") from error
        if not all(map(_is_sane, zip(*runs, strict=True))):
            raise LookupError("nothing to go on with")
        return runs

    def _model(self, nodes, inputs, outputs, names=None):
        constants = [
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if names is None or name in names
        ]
        results = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(nodes, "g", inputs, results, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def model(self):
        """The whole graph; every value that a node makes is an output."""
        inputs = [helper.make_tensor_value_info(*each) for each in self.inputs]
        return self._model(self.nodes, inputs, [value.name for value in self.values if value.name not in self.axes])


def _session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _declared(value):
    make = helper.make_tensor_sequence_value_info if value.sequence else helper.make_tensor_value_info
    return make(value.name, value.kind, None)


def _kind(array):
    return _KINDS[array.dtype.kind]


def _is_sane(runs):
    """Whether a value can be used: small, finite, never empty, and of one rank."""
    if isinstance(runs[0], list):
        return all(0 < len(run) <= 12 for run in runs) and all(_is_sane([item]) for run in runs for item in run)
    return len({run.ndim for run in runs}) == 1 and all(
        0 < run.size <= _LARGEST and run.ndim <= 5 and np.isfinite(run).all() and np.abs(run).max(initial=0) < 1e5
        if run.dtype.kind in "fi"
        else 0 < run.size <= _LARGEST
        for run in map(np.asarray, runs)
    )
