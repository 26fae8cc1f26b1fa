"""PyTorch's files: weights and modules of every form are read; files that are damaged or not trusted are refused."""

import fractions
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.base import TRUST
from support import torch_nets as nets
from support.converting import request as ask
from support.torch_sources import in_memory, loaded, program, script, weights

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

IMAGE = "image=float32[batch,1,8,8]"
UNREADABLE = "(the file is empty|damaged zip archive|cannot be read as|unknown file format)"


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
    return output(loaded(in_memory(net, tmp_path_factory.mktemp("wanted"), IMAGE)))


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
    model = loaded(ask(save(net, tmp_path / "net.pth"), IMAGE, class_path="support.torch_nets:Convolution"))
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
        == f"{tmp_path}/whole.pt: not weights alone: contains an object of support.torch_nets.Convolution; {TRUST}"
    )
    model = loaded(ask(tmp_path / "whole.pt", IMAGE, trust_code=True))
    np.testing.assert_array_equal(output(model), wanted)


def test_weights_beside_which_other_objects_are_pickled_are_refused_too(net, tmp_path):
    torch.save({"state_dict": net.state_dict(), "args": fractions.Fraction(1, 3)}, tmp_path / "net.pt")
    with pytest.raises(BadRequest, match=r"not weights alone: contains an object of fractions\.Fraction"):
        loaded(ask(tmp_path / "net.pt", IMAGE, class_path="support.torch_nets:Convolution"))


def test_trusted_code_that_cannot_be_imported_names_the_cure(net, tmp_path, monkeypatch):
    torch.save(net, tmp_path / "whole.pt")
    monkeypatch.delattr(nets, "Convolution")
    with pytest.raises(BadRequest, match=r"the code that it needs cannot be imported: .*Convolution.*--class"):
        loaded(ask(tmp_path / "whole.pt", IMAGE, trust_code=True))


def test_an_in_memory_module_whose_code_is_not_here_is_refused(tmp_path):
    (tmp_path / "module.pickle").write_bytes(pickle.dumps(nets.Nested()).replace(b"torch_nets", b"torch_nots"))
    with pytest.raises(BadRequest, match=r"the module cannot be loaded .*No module named 'support.torch_nots'"):
        loaded(ask(tmp_path / "module.pickle", "x=float32[batch]", in_memory=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"a state_dict contains weights only; name their class with --class package\.module:Class"),
        ({"class_path": "support.torch_nets:Missing"}, r"--class support\.torch_nets:Missing: .*no.*Missing"),
        ({"class_path": "nowhere:Net"}, r"--class nowhere:Net: .*No module named 'nowhere'"),
        ({"class_path": "support.torch_nets:seeded", "class_arguments": {"make": list}}, r"has no attribute 'eval'"),
        ({"class_path": "builtins:dict"}, r"expected a torch\.nn\.Module, got a dict"),
        (
            {"class_path": "support.torch_nets:Convolution", "class_arguments": {"colours": 3}},
            r":Convolution: cannot be created with the arguments \{'colours': 3\}: .*colours.*JSON",
        ),
        (
            {"class_path": "support.torch_nets:Convolution", "class_arguments": {"classes": 5}},
            r"'head\.weight' has shape \[3, 36\] in the file, but \[5, 36\] in the class",
        ),
        ({"class_path": "support.torch_nets:Perturbed"}, r"the weights do not fit .*: the file lacks 'good\.weight'"),
        ({"class_path": "support.torch_nets:Nested"}, r"the class lacks 'features\.0\.weight'"),
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
        loaded(ask(path, IMAGE, class_path="support.torch_nets:Convolution", trust_code=name == "program.pt2"))


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


@pytest.mark.parametrize("part", ["code/__torch__/support/torch_nets.py", "models/model.json", "data.pkl"])
def test_an_archive_with_a_spoiled_part_is_refused(net, tmp_path, part):
    match part:
        case "data.pkl":
            asked = weights(net, tmp_path, IMAGE)
        case "models/model.json":
            asked = program(net, tmp_path, arguments=(torch.zeros(2, 1, 8, 8),))
        case _:
            asked = script(net, tmp_path, IMAGE)
    spoil(asked.source, part)
    with pytest.raises(BadRequest, match=rf"^{asked.source}: cannot be read as .+"):
        loaded(asked)
