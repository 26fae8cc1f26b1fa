"""PyTorch models of every form, converted in a child process as a caller would have it, and bad ones refused."""

import argparse
import pickle
import zipfile
from types import SimpleNamespace

import cloudpickle
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch.export import Dim

from onnxserve_converters import conversion
from onnxserve_converters.errors import BadRequest, ExportFailed, NotProved
from onnxserve_converters.inputs import BATCH_SIZES, Cases, parse_input
from onnxserve_converters.sources.base import TRUST
from onnxserve_converters.sources.detection import load_source
from support import torch_nets as nets
from support.converting import request as ask

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

IMAGE = "image=float32[batch,1,8,8]"
UNREADABLE = "it (is empty|begins as a zip archive, and is a broken one|cannot be read as|is none of the files)"
TOKENS = ("tokens=float32[batch,time,8]", "padding=bool[batch,time]")


def weights(net, folder, *inputs, **options):
    """The request for a network's weights and its class."""
    torch.save(net.state_dict(), folder / "weights.pt")
    return ask(folder / "weights.pt", *inputs, class_path=f"torch_nets:{type(net).__name__}", **options)


def live(net, folder, *inputs):
    """The request for a network of this process."""
    (folder / "module.pickle").write_bytes(cloudpickle.dumps(net))
    return ask(folder / "module.pickle", *inputs, in_memory=True)


def script(net, folder, *inputs):
    """The request for a TorchScript file."""
    torch.jit.script(net).save(folder / "script.pt")
    return ask(folder / "script.pt", *inputs)


def program(net, folder, *inputs, arguments, keywords=None, dynamic_shapes=None):
    """The request for a program that torch.export saved."""
    made = torch.export.export(net, arguments, keywords, dynamic_shapes=dynamic_shapes)
    torch.export.save(made, folder / "program.pt2")
    return ask(folder / "program.pt2", *inputs, trust_code=True)


def options(batch):
    """Arguments for nets.Options."""
    rng = np.random.default_rng(1)
    half = torch.tensor(rng.normal(size=(batch, 2)), dtype=torch.float16)
    ids = torch.tensor(rng.integers(0, 9, (batch, 2)), dtype=torch.int32)
    return (half, half > 0), {"ids": ids, "rate": torch.tensor(1.5)}


def convolution(folder):
    net = nets.seeded(nets.Convolution)
    return net, live(net, folder, IMAGE), {"image": ["batch", 1, 8, 8], "output": ["batch", 3]}


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


def program_that_tells_its_axes(folder):
    net = nets.seeded(nets.Encoder)
    shape = {0: Dim("b"), 1: Dim("t")}
    arguments = (torch.zeros(3, 7, 8), torch.zeros(3, 7, dtype=torch.bool))
    shapes = {"tokens": shape, "padding": shape}
    return net, program(net, folder, arguments=arguments, dynamic_shapes=shapes), {
        "tokens": ["batch", "tokens_1", 8], "padding": ["batch", "tokens_1"],
        "output_0": ["batch", 8], "output_1": ["batch", "tokens_1", 8],
    }  # fmt: skip


def program_of_fixed_sizes(folder):
    net = nets.seeded(nets.Options)
    positional, named = options(3)
    inputs = ("rate=float32[]", "ids=int32[batch,2]", "half=float16[batch,2]", "flags=bool[batch,2]")
    row = ["batch", 2]
    return net, program(net, folder, *inputs, arguments=(*positional, None), keywords=named | {"power": 2}), {
        "half": row, "flags": row, "ids": row, "rate": [], "powers": row, "not": row, "next": row, "twice": [],
    }  # fmt: skip


CONVERSIONS = [
    convolution, pytest.param(recurrent, marks=pytest.mark.slow), encoder, colliding, keywords, recurrent_script,
    program_that_tells_its_axes, program_of_fixed_sizes,
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
    told = converted.report["model"]["inputs"]
    inputs = [
        parse_input(f"{name}={spec['dtype']}[{','.join(map(str, spec['shape']))}]") for name, spec in told.items()
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
    assert "frozen by the export? batch, time should be free" in str(error)
    assert "torch.onnx.export(dynamo=False) wrote the graph, after a failure of" in str(error)
    assert len(error.report["notes"]) == 1


def test_a_weight_that_the_export_changed_is_refused_and_the_report_tells_where(tmp_path):
    error = refused(weights(nets.seeded(nets.Perturbed), tmp_path, "x=float32[batch,4]"), tmp_path, NotProved)
    assert "output bad with batch=1: it is off by" in str(error)
    rows = error.report["parity"]
    assert {(row["output"], row["passes"]) for row in rows} == {("good", True), ("bad", False)}
    assert {row["sizes"]["batch"] for row in rows} == set(BATCH_SIZES)
    assert all(row["error"] > row["allowed"] for row in rows if row["output"] == "bad")


def test_a_branch_that_depends_on_values_is_not_taken_for_granted(tmp_path):
    error = refused(weights(nets.Branching(), tmp_path, "x=float32[batch,4]"), tmp_path, ExportFailed)
    assert "data-dependent" in str(error)
    assert "Converting a tensor to a Python boolean" in str(error)


@pytest.mark.slow
def test_the_older_exporter_is_tried_where_the_newer_fails_and_the_report_says_so(tmp_path):
    asked = weights(nets.seeded(nets.Elman), tmp_path, "x=float32[batch,time,6]")
    report = conversion.run(asked, tmp_path / "models" / "net").report
    (note,) = report["notes"]
    assert note.startswith(
        "torch.onnx.export(dynamo=False) wrote the graph, after a failure of torch.onnx.export(dynamo=True): "
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


def loaded(asked):
    """Load a source in this process: loading leaves nothing behind that an export would stumble over."""
    _, model = load_source(asked)
    return model


def output(model):
    """What a loaded model of one output gives for an example."""
    (array,) = model.run(Cases(model.inputs, {}, {}, None).example().feeds).values()
    return array


@pytest.fixture(scope="module")
def net():
    return nets.seeded(nets.Convolution)


@pytest.fixture(scope="module")
def wanted(net, tmp_path_factory):
    """What `net` gives for the example of its loaded forms."""
    return output(loaded(live(net, tmp_path_factory.mktemp("wanted"), IMAGE)))


def safetensors(net, path):
    save_file(net.state_dict(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def before_torch_1_6(net, path):
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def checkpoint(net, path):
    torch.save({"epoch": 3, "model_state_dict": net.state_dict()}, path)
    return path


@pytest.mark.parametrize("save", [safetensors, before_torch_1_6, checkpoint])
def test_weights_are_read_from_files_of_every_form(net, wanted, tmp_path, save):
    model = loaded(ask(save(net, tmp_path / "net.pth"), IMAGE, class_path="torch_nets:Convolution"))
    np.testing.assert_array_equal(output(model), wanted)
    assert model.notes == (
        ["the weights were taken from the file's entry 'model_state_dict'"] if save is checkpoint else []
    )


def test_a_whole_pickled_module_is_refused_unless_its_code_is_trusted(net, wanted, tmp_path):
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(BadRequest) as raised:
        loaded(ask(tmp_path / "whole.pt", IMAGE))
    assert (
        str(raised.value)
        == f"{tmp_path}/whole.pt: it holds an object of torch_nets.Convolution and not weights only; {TRUST}"
    )
    model = loaded(ask(tmp_path / "whole.pt", IMAGE, trust_code=True))
    np.testing.assert_array_equal(output(model), wanted)


def test_weights_beside_which_other_objects_are_pickled_are_refused_too(net, tmp_path):
    torch.save({"state_dict": net.state_dict(), "args": argparse.Namespace(epochs=3)}, tmp_path / "net.pt")
    with pytest.raises(BadRequest, match=r"it holds an object of argparse\.Namespace"):
        loaded(ask(tmp_path / "net.pt", IMAGE, class_path="torch_nets:Convolution"))


def test_trusted_code_that_cannot_be_imported_names_the_cure(net, tmp_path, monkeypatch):
    torch.save(net, tmp_path / "whole.pt")
    monkeypatch.delattr(nets, "Convolution")
    with pytest.raises(BadRequest, match=r"the code that it needs cannot be imported: .*Convolution.*--class"):
        loaded(ask(tmp_path / "whole.pt", IMAGE, trust_code=True))


def test_a_live_module_whose_code_is_not_here_is_refused(tmp_path):
    (tmp_path / "module.pickle").write_bytes(pickle.dumps(nets.Nested()).replace(b"torch_nets", b"torch_nots"))
    with pytest.raises(BadRequest, match=r"the module cannot be loaded .*No module named 'torch_nots'"):
        loaded(ask(tmp_path / "module.pickle", "x=float32[batch]", in_memory=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"a state_dict holds weights only; name their class with --class package\.module:Class"),
        ({"class_path": "torch_nets:Missing"}, r"--class torch_nets:Missing: .*no.*Missing"),
        ({"class_path": "nowhere:Net"}, r"--class nowhere:Net: .*No module named 'nowhere'"),
        ({"class_path": "torch_nets:seeded", "class_arguments": {"make": list}}, r"has no attribute 'eval'"),
        ({"class_path": "builtins:dict"}, r"it makes a dict, not a torch\.nn\.Module"),
        (
            {"class_path": "torch_nets:Convolution", "class_arguments": {"colours": 3}},
            r"--class torch_nets:Convolution: it cannot be made with the arguments \{'colours': 3\}: .*colours.*JSON",
        ),
        (
            {"class_path": "torch_nets:Convolution", "class_arguments": {"classes": 5}},
            r"'head\.weight' has the shape \[3, 36\] in the file, and \[5, 36\] in the class",
        ),
        ({"class_path": "torch_nets:Perturbed"}, r"the weights are not those of .*: the file lacks 'good\.weight'"),
        ({"class_path": "torch_nets:Nested"}, r"the file holds 'features\.0\.weight', which the class has not"),
    ],
)
def test_weights_without_the_class_that_they_are_of_are_refused(net, tmp_path, options, message):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(BadRequest, match=message):
        loaded(ask(tmp_path / "net.pt", IMAGE, **options))


@pytest.mark.parametrize("name", ["script.pt", "program.pt2", "weights.pt", "weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"no model", None], ids=["empty", "text", "half"])
def test_a_file_that_cannot_be_read_is_refused(net, tmp_path, name, damage):
    path = tmp_path / name
    if name == "script.pt":
        script(net, tmp_path)
    elif name == "program.pt2":
        program(net, tmp_path, arguments=(torch.zeros(2, 1, 8, 8),))
    elif name == "weights.safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=name == "weights.pt")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(BadRequest, match=rf"^{path}: {UNREADABLE}"):
        loaded(ask(path, IMAGE, class_path="torch_nets:Convolution", trust_code=name == "program.pt2"))


def test_a_program_is_loaded_only_on_trust(net, tmp_path):
    program(net, tmp_path, arguments=(torch.zeros(2, 1, 8, 8),))
    with pytest.raises(BadRequest, match="--trust-code"):
        loaded(ask(tmp_path / "program.pt2"))


def spoil(path, part):
    """Write an archive anew, with a part that says nothing."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    (spoiled,) = (name for name in held if name.endswith(part))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, b"nothing" if name == spoiled else content)


@pytest.mark.parametrize("part", ["code/__torch__/torch_nets.py", "models/model.json", "data.pkl"])
def test_an_archive_with_a_spoiled_part_is_refused(net, tmp_path, part):
    match part:
        case "data.pkl":
            asked = weights(net, tmp_path, IMAGE)
        case "models/model.json":
            asked = program(net, tmp_path, arguments=(torch.zeros(2, 1, 8, 8),))
        case _:
            asked = script(net, tmp_path, IMAGE)
    spoil(asked.source, part)
    with pytest.raises(BadRequest, match=rf"^{asked.source}: it cannot be read as .+"):
        loaded(asked)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (),
            r"describe the inputs of forward\(x, y\), .* --input x=float32\[batch,10\] --input y=float32\[batch,10\]$",
        ),
        (("x=float32[batch,4]",), r"forward\(x, y\) cannot be called with x: missing a required argument: 'y'"),
        (
            ("a=float32[batch,4]", "b=float32[batch,4]", "c=float32[batch,4]"),
            r"forward\(x, y\) cannot be called with a, b, c: too many positional arguments",
        ),
        (("x=bfloat16[batch,4]", "y=float32[batch,4]"), r"--input x: .*bfloat16.*float32 or float16"),
    ],
)
@pytest.mark.parametrize("form", [weights, live, script])
def test_inputs_that_forward_does_not_take_are_refused(tmp_path, form, inputs, message):
    with pytest.raises(BadRequest, match=message):
        loaded(form(nets.seeded(nets.Colliding), tmp_path, *inputs))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("a=float32[batch,1,8,8]", "b=float32[batch]"), r"2 are described, and the program takes 1: image=float32\["),
        (("image=float64[batch,1,8,8]",), r"--input image: the program takes it as image=float32\[2,1,8,8\]"),
        (("image=float32[3,1,8,8]",), r"--input image: the program takes it as image=float32\[2,1,8,8\]"),
        (("image=float32[batch,64]",), r"--input image: the program takes it as image=float32\[2,1,8,8\]"),
    ],
)
def test_inputs_that_contradict_a_program_are_refused(net, tmp_path, inputs, message):
    with pytest.raises(BadRequest, match=message):
        loaded(program(net, tmp_path, *inputs, arguments=(torch.zeros(2, 1, 8, 8),)))


def test_what_is_said_of_one_input_of_a_program_holds_for_the_axes_of_the_others(tmp_path):
    _, asked, _ = program_that_tells_its_axes(tmp_path)
    model = loaded(ask(asked.source, "padding=bool[rows,9]", trust_code=True))
    assert list(map(str, model.inputs)) == ["tokens=float32[rows,9,8]", "padding=bool[rows,9]"]


def test_a_program_whose_fixed_sizes_are_freed_says_so(tmp_path):
    _, asked, _ = program_of_fixed_sizes(tmp_path)
    assert loaded(asked).notes == [
        "the program was saved with fixed sizes; at others it was compared with itself, run without its guards"
    ]


def test_a_program_that_takes_a_number_is_refused(tmp_path):
    asked = program(nets.Power(), tmp_path, arguments=(torch.zeros(2), 3), dynamic_shapes=(None, Dim.DYNAMIC))
    with pytest.raises(BadRequest, match=r"input exponent: the program takes a number there"):
        loaded(asked)


def test_outputs_are_named_by_the_way_to_them_and_none_is_left_out(tmp_path):
    model = loaded(live(nets.Nested(), tmp_path, "x=float32[batch]"))
    outputs = model.run({"x": np.zeros(2, np.float32)})
    assert {name: float(array[0]) for name, array in outputs.items()} == {
        "a": 1, "b_0": 2, "b_1_0": 3, "b_0_3": 4, "pair_left": 5,
    }  # fmt: skip


def test_an_output_is_a_copy_and_an_input_stays_as_it_was(tmp_path):
    model = loaded(live(nets.InPlace(), tmp_path, "x=float32[batch]"))
    x = np.ones(2, np.float32)
    first, _ = (model.run({"x": x}) for _ in range(2))
    np.testing.assert_array_equal(first["output"], [2, 2])
    np.testing.assert_array_equal(x, [1, 1])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nets.Number(), r"output output_1: the model returns int there"),
        (nets.Half(), r"output output: it is bfloat16"),
        (nets.Nothing(), r"the model returns no tensor"),
    ],
)
def test_outputs_that_no_file_can_have_are_refused(tmp_path, net, message):
    with pytest.raises(BadRequest, match=message):
        loaded(live(net, tmp_path, "x=float32[batch]")).run({"x": np.zeros(2, np.float32)})
