"""The benchmark's models: seeded random weights, input x, output y, the batch axis free."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

Floats = npt.NDArray[np.float32]

REPOSITORY = Path("build/bench/models")
"""Where write() puts them, as a model repository."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A graph in ONNX's text form, without its head, and the shapes of its weights."""

    name: str
    row: tuple[int, ...]
    columns: int
    nodes: Sequence[str]
    weights: Mapping[str, tuple[int, ...]]

    @property
    def path(self) -> Path:
        """The model file in the repository."""
        return REPOSITORY / self.name / "1" / "model.onnx"

    def one_row(self) -> Floats:
        """The input that every request sends: one row, the same each time."""
        return np.random.default_rng(0).random((1, *self.row), np.float32)


def _mlp(name: str, widths: Sequence[int]) -> Model:
    nodes: list[str] = []
    weights: dict[str, tuple[int, ...]] = {}
    last = "x"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if i > 0:
            nodes.append(f"a{i} = Relu({last})")
            last = f"a{i}"
        target = "y" if i == len(widths) - 2 else f"h{i}"
        nodes.append(f"{target} = Gemm({last}, w{i}, b{i})")
        weights |= {f"w{i}": (inputs, outputs), f"b{i}": (outputs,)}
        last = target
    return Model(name=name, row=(widths[0],), columns=widths[-1], nodes=nodes, weights=weights)


_LENET = Model(
    name="lenet",
    row=(3, 32, 32),
    columns=10,
    nodes=[
        "c1 = Conv(x, k1, kb1)",
        "r1 = Relu(c1)",
        "p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)",
        "c2 = Conv(p1, k2, kb2)",
        "r2 = Relu(c2)",
        "p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)",
        "flat = Flatten(p2)",
        "h1 = Gemm(flat, w1, b1)",
        "a1 = Relu(h1)",
        "h2 = Gemm(a1, w2, b2)",
        "a2 = Relu(h2)",
        "y = Gemm(a2, w3, b3)",
    ],
    weights={
        "k1": (6, 3, 5, 5),
        "kb1": (6,),
        "k2": (16, 6, 5, 5),
        "kb2": (16,),
        "w1": (400, 120),
        "b1": (120,),
        "w2": (120, 84),
        "b2": (84,),
        "w3": (84, 10),
        "b3": (10,),
    },
)

MODELS = {
    model.name: model
    for model in (
        _mlp("tiny", [64, 64, 10]),
        _LENET,
        _mlp("wide", [2048, 2048, 2048, 2048, 2048, 16]),
    )
}
"""By name: what a request costs besides its run (tiny), a small network (lenet), a run that dominates (wide)."""


def write() -> None:
    """Write all models to REPOSITORY, as `<name>/1/model.onnx`."""
    import onnx

    for model in MODELS.values():
        model.path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(_build(model), model.path)


def expected(model: Model) -> Floats:
    """What ONNX Runtime itself answers to the model's one_row()."""
    return np.asarray(session(model.path).run(None, {"x": model.one_row()})[0], np.float32)


def session(path: Path) -> "InferenceSession":
    """An ONNX Runtime session on one thread of the CPU, spinning off: what each contender has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _build(model: Model) -> "ModelProto":
    import onnx

    row = ", ".join(["batch", *map(str, model.row)])
    built = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> {model.name} (float[{row}] x) => (float[batch, {model.columns}] y)'
        f"{{ {' '.join(model.nodes)} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in model.weights.items():
        scale = math.sqrt(math.prod(shape[1:]) if len(shape) == 4 else shape[0])  # keeps activations near 1
        values = (rng.standard_normal(shape) / scale).astype(np.float32)
        built.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.checker.check_model(built, full_check=True)
    return built
