"""PyTorch models of every form, converted in a worker process as for a caller, and exports that are refused."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from onnxserve_converters import conversion
from onnxserve_converters.cases import BATCH_SIZES, Cases
from onnxserve_converters.errors import BadRequest, ExportFailed, NotProved
from onnxserve_converters.inputs import parse_input
from support import torch_nets as nets
from support.torch_sources import (
    in_memory,
    program,
    program_of_fixed_sizes,
    program_with_free_axes,
    script,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

IMAGE = "image=float32[batch,1,8,8]"
TOKENS = ("tokens=float32[batch,time,8]", "padding=bool[batch,time]")


def convolution(folder):
    net = nets.seeded(nets.Convolution)
    return net, in_memory(net, folder, IMAGE), {"image": ["batch", 1, 8, 8], "output": ["batch", 3]}


def recurrent(folder):
    net = nets.seeded(nets.Recurrent)
    states = {name: [2, "batch", 8] for name in ("h0", "c0", "g0")}
    inputs = ("ids=int64[batch,time]", *(f"{name}=float32[2,batch,8]" for name in states))
    after = {f"state_{i}": [2, "batch", 8] for i in range(3)}
    return net, weights(net, folder, *inputs), {
        "ids": ["batch", "time"], **states, "embedding": ["batch", "time", 8], **after,
    }  # fmt: skip


def encoder(folder):
    net = nets.seeded(nets.Encoder)
    return net, weights(net, folder, *TOKENS), {
        "tokens": ["batch", "time", 8], "padding": ["batch", "time"],
        "output_0": ["batch", 8], "output_1": ["batch", "time", 8],
    }  # fmt: skip


def colliding(folder):
    net = nets.seeded(nets.Colliding)
    inputs = ("weight=float32[batch,4]", "linear=float32[batch,4]")
    names = ("matmul", "linear.weight", "add", "x")
    return net, weights(net, folder, *inputs, outputs=names, opset=18), {
        name: ["batch", 4] for name in ("weight", "linear", *names)
    }  # fmt: skip


def keywords(folder):
    net = nets.seeded(nets.Options)
    inputs = ("rate=float32[]", "ids=int32[batch,2]", "half=float16[batch,2]", "flags=bool[batch,2]")
    row = ["batch", 2]
    return net, weights(net, folder, *inputs), {
        "half": row, "flags": row, "ids": row, "rate": [], "powers": row, "not": row, "next": row, "twice": [],
    }  # fmt: skip


def recurrent_script(folder):
    net = nets.seeded(nets.Script)
    state = [1, "batch", 8]
    inputs = ("x=float32[batch,time,6]", "h0=float32[1,batch,8]", "c0=float32[1,batch,8]")
    return net, script(net, folder, *inputs), {
        "x": ["batch", "time", 6], "h0": state, "c0": state,
        "output_0": ["batch", "time", 8], "output_1": state, "output_2": state,
    }  # fmt: skip


CONVERSIONS = [
    convolution, recurrent, encoder, colliding, keywords, recurrent_script,
    program_with_free_axes, program_of_fixed_sizes,
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _attention_as_exporters_write_it():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.fixture(scope="module", params=CONVERSIONS, ids=lambda make: make.__name__)
def converted(request, tmp_path_factory):
    """A network, what was published of it, and the axes that must be declared, inputs first."""
    folder = tmp_path_factory.mktemp("torch")
    net, asked, axes = request.param(folder)
    made = conversion.run(asked, folder / "models" / "net")
    return SimpleNamespace(net=net, root=folder / "models", report=made.report, path=made.path, axes=axes, asked=asked)


def test_it_is_proved_at_every_size(converted):
    parity = converted.report["proof"]["parity"]
    assert all(row["passes"] for row in parity)
    assert {row["sizes"]["batch"] for row in parity} == set(BATCH_SIZES)
    assert [*converted.report["model"]["inputs"], *converted.report["model"]["outputs"]] == list(converted.axes)


def test_the_true_axes_are_declared(converted):
    graph = onnx.load(converted.path / "model.onnx").graph
    declared = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert declared == converted.axes


def test_the_operator_set_is_the_one_that_was_asked_for(converted):
    assert converted.report["model"]["opset"]["ai.onnx"] == (converted.asked.opset or 20)


def test_it_serves_at_sizes_that_it_was_not_exported_with(converted, serving):
    declared = converted.report["model"]["inputs"]
    inputs = [
        parse_input(f"{name}={spec['dtype']}[{','.join(map(str, spec['shape']))}]") for name, spec in declared.items()
    ]
    feeds = Cases(inputs, {}, {}, None).rows(5).feeds
    tensors = {name: torch.tensor(array) for name, array in feeds.items()}
    with torch.no_grad():
        result = converted.net(**tensors) if "rate" in feeds else converted.net(*tensors.values())
    wanted = torch.utils._pytree.tree_leaves(result)
    with serving(converted.root) as server:
        got = server.client.predict("net", feeds)
        for name, tensor in zip(list(converted.axes)[len(inputs) :], wanted, strict=True):
            np.testing.assert_allclose(got[name], tensor.numpy(), rtol=1e-3, atol=1e-5)


def refused(asked, folder, error):
    """Convert what must be refused, and return how; nothing must be published."""
    with pytest.raises(error) as raised:
        conversion.run(asked, folder / "models" / "net")
    assert not list(folder.glob("models/net*"))
    return raised.value


def test_a_length_that_the_export_froze_is_refused(tmp_path):
    error = refused(weights(nets.Frozen(), tmp_path, "x=float32[batch,time,4]"), tmp_path, NotProved)
    assert error.exit_code == 1
    assert "did the export fix an axis? batch, time should be free" in str(error)
    assert "exported by torch.onnx.export(dynamo=False) after a failure of" in str(error)
    assert len(error.report["notes"]) == 1


def test_a_weight_that_the_export_changed_is_refused_and_the_report_tells_where(tmp_path):
    error = refused(weights(nets.seeded(nets.Perturbed), tmp_path, "x=float32[batch,4]"), tmp_path, NotProved)
    assert "output bad with batch=1: error " in str(error)
    rows = error.report["parity"]
    assert {(row["output"], row["passes"]) for row in rows} == {("good", True), ("bad", False)}
    assert {row["sizes"]["batch"] for row in rows} == set(BATCH_SIZES)
    assert all(row["error"] > row["allowed"] for row in rows if row["output"] == "bad")


def test_a_branch_that_depends_on_values_is_not_taken_for_granted(tmp_path):
    error = refused(weights(nets.Branching(), tmp_path, "x=float32[batch,4]"), tmp_path, ExportFailed)
    assert "data-dependent" in str(error)
    assert "Converting a tensor to a Python boolean" in str(error)


def test_the_older_exporter_is_tried_where_the_newer_fails_and_the_report_says_so(tmp_path):
    asked = weights(nets.seeded(nets.Elman), tmp_path, "x=float32[batch,time,6]")
    report = conversion.run(asked, tmp_path / "models" / "net").report
    (note,) = report["notes"]
    assert note.startswith(
        "exported by torch.onnx.export(dynamo=False) after a failure of torch.onnx.export(dynamo=True): "
    )
    assert report["model"]["outputs"] == {"output": {"shape": ["batch", "time", 3]}}


def test_a_script_that_the_exporter_cannot_write_names_the_way_out(tmp_path):
    error = refused(script(nets.seeded(nets.Encoder), tmp_path, *TOKENS), tmp_path, ExportFailed)
    assert "aten::_nested_tensor_from_mask_left_aligned" in str(error)
    assert "save its state_dict() and name the class with --class package.module:Class" in str(error)


def test_a_program_whose_sizes_are_fixed_inside_is_refused(tmp_path):
    arguments = (torch.zeros(3, 7, 8), torch.zeros(3, 7, dtype=torch.bool))
    asked = program(nets.seeded(nets.Encoder), tmp_path, *TOKENS, arguments=arguments)
    error = refused(asked, tmp_path, BadRequest)
    assert error.exit_code == 2
    assert "the program was saved with fixed sizes and does not run with others" in str(error)
    assert "torch.export.export(..., dynamic_shapes=...)" in str(error)
