"""Checkpoints as training leaves them: the weights of a class are found in them, and no code in them runs."""

import argparse
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from onnxserve_converters import conversion
from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import BadRequest
from support import torch_nets as nets
from support.converting import request as ask
from support.torch_sources import loaded

IMAGE = "image=float32[batch,3,16,16]"
PACKAGES = ("pytorch_lightning", "pytorch_lightning.utilities")
RESIDUAL = f"{nets.__name__}:Residual"


def prefixed(net, *prefixes):
    return {"".join([*prefixes, key]): value for key, value in net.state_dict().items()}


def args():
    """What people keep beside weights."""
    return argparse.Namespace(lr=0.1, out=pathlib.Path("runs/1"), best=np.float64(0.9), seed=np.int64(3))


def trained(net):
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.zeros(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def lightning(net, other):
    module = types.ModuleType("pytorch_lightning.utilities.parsing")
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})
    packages = {name: types.ModuleType(name) for name in PACKAGES}  # as if they were installed
    sys.modules.update({**packages, module.__name__: module})
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(net, "model."),
        "hyper_parameters": module.AttributeDict(lr=0.1, args=args()),
        "optimizer_states": [{"state": {}}],
    }


KINDS = {
    "state_dict": lambda net, other: net.state_dict(),
    "DataParallel": lambda net, other: nn.DataParallel(net).state_dict(),
    "torch.compile": lambda net, other: prefixed(net, "_orig_mod."),
    "DDP of compile": lambda net, other: prefixed(net, "module.", "_orig_mod."),
    "compile of DDP": lambda net, other: prefixed(net, "_orig_mod.", "module."),
    "AveragedModel": lambda net, other: AveragedModel(net).state_dict(),
    "Lightning": lightning,
    "Lightning with net.": lambda net, other: {"state_dict": prefixed(net, "net."), "hparams": args()},
    "timm": lambda net, other: {
        "epoch": 3, "arch": "resnet18", "state_dict": net.state_dict(), "args": args(), "metric": 0.9,
        "state_dict_ema": other.state_dict(),
    },
    "torchvision references": lambda net, other: {
        "model": net.state_dict(), "optimizer": trained(net), "lr_scheduler": {"last_epoch": 3}, "epoch": 3,
        "args": args(), "model_ema": AveragedModel(other).state_dict(),
    },
    "net": lambda net, other: {"net": prefixed(net, "module."), "acc": 0.9, "loss": torch.tensor(0.3)},
    "weights": lambda net, other: {"weights": net.state_dict()},
    "ema": lambda net, other: {"ema": other.state_dict(), "model": {"state_dict": net.state_dict()}},
}  # fmt: skip


@pytest.fixture(scope="module")
def both():
    """A network, and one of its class with other weights: its moving average."""
    torch.manual_seed(0)
    return nets.Residual().eval(), nets.Residual().eval()


def output(model):
    (array,) = model.run(Cases(model.inputs, {}, {}, None).example().feeds).values()
    return array


def wanted(net):
    feeds = {"image": torch.tensor(Cases(ask("", IMAGE).inputs, {}, {}, None).example().feeds["image"])}
    with torch.no_grad():
        return net(**feeds).numpy()


def saved(content, folder):
    torch.save(content, folder / "net.pt")
    for name in (*PACKAGES, "pytorch_lightning.utilities.parsing"):
        sys.modules.pop(name, None)
    return folder / "net.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_found_without_renaming(both, kind, tmp_path):
    net = nets.Residual().eval()
    net.load_state_dict(both[0].state_dict())
    content = KINDS[kind](net, both[1])  # which may train the network for a step
    net.eval()
    model = loaded(ask(saved(content, tmp_path), IMAGE, class_path=RESIDUAL))
    np.testing.assert_allclose(output(model), wanted(net), rtol=1e-5, atol=1e-6)
    assert bool(model.notes) == (kind != "state_dict")


@pytest.mark.parametrize("kind", ["timm", "torchvision references", "ema"])
def test_the_moving_average_is_taken_by_choice(both, kind, tmp_path):
    path = saved(KINDS[kind](nets.Residual(), both[1]), tmp_path)
    model = loaded(ask(path, IMAGE, class_path=RESIDUAL, weights=pathlib.Path("ema")))
    np.testing.assert_array_equal(output(model), wanted(both[1]))
    assert "ema" in model.notes[0]


def test_a_checkpoint_of_lightning_is_converted_and_the_report_says_what_was_stripped(both, tmp_path):
    asked = ask(saved(lightning(*both), tmp_path), IMAGE, class_path=RESIDUAL)
    done = conversion.run(asked, tmp_path / "models" / "net")
    assert done.report["notes"] == [
        "the weights were taken from the file's entry 'state_dict'",
        "the prefix 'model.' was removed from keys",
    ]


def test_parts_that_fit_equally_well_are_chosen_by_name(both, tmp_path):
    path = saved({**prefixed(both[0], "student."), **prefixed(both[1], "teacher.")}, tmp_path)
    with pytest.raises(BadRequest, match=r"'student\.', 'teacher\.' fit equally well; .*--weights student"):
        loaded(ask(path, IMAGE, class_path=RESIDUAL))
    model = loaded(ask(path, IMAGE, class_path=RESIDUAL, weights=pathlib.Path("teacher")))
    np.testing.assert_array_equal(output(model), wanted(both[1]))


def test_tied_weights_that_a_file_leaves_out_are_filled_in(tmp_path):
    net = nets.seeded(nets.Tied)
    held = {key: value for key, value in net.state_dict().items() if key != "head.weight"}
    model = loaded(ask(saved(held, tmp_path), "ids=int64[batch,time]", class_path=f"{nets.__name__}:Tied"))
    assert model.notes == ["'head.weight' was taken from 'embedding.weight', with which the class ties it"]


def test_what_is_missing_and_what_is_there_instead_are_told_with_their_numbers(both, tmp_path):
    held = {key.replace("fc.", "classifier_fc."): value for key, value in both[0].state_dict().items()}
    with pytest.raises(BadRequest) as raised:
        loaded(ask(saved(held, tmp_path), IMAGE, class_path=RESIDUAL))
    total = len(held)
    assert (
        f"the file lacks 'fc.weight' (has 'classifier_fc.weight'), 'fc.bias' (has 'classifier_fc.bias') (2 of the "
        f"class's {total} weights); the class lacks 'classifier_fc.weight', 'classifier_fc.bias' (2 of the file's "
        f"{total} weights)"
    ) in str(raised.value)


def test_surplus_weights_are_an_error(both, tmp_path):
    held = {**prefixed(both[0], "model."), "criterion.weight": torch.ones(3)}
    with pytest.raises(BadRequest, match=r"the class lacks 'criterion\.weight'"):
        loaded(ask(saved({"state_dict": held}, tmp_path), IMAGE, class_path=RESIDUAL))


class Command:
    """Unpickling it runs a command."""

    def __init__(self, function, *arguments):
        self._calls = function, arguments

    def __reduce__(self):
        return self._calls


@pytest.mark.parametrize("function", [os.system, eval, exec, pickle.loads])
def test_code_beside_weights_does_not_run(both, tmp_path, function):
    made = tmp_path / "made"
    text = f"touch {made}" if function is os.system else f"open({str(made)!r}, 'w')"
    hostile = Command(function, text)
    if function is pickle.loads:
        hostile = Command(function, pickle.dumps(Command(os.system, f"touch {made}")))
    content = {"state_dict": both[0].state_dict(), "args": argparse.Namespace(lr=0.1, hidden=hostile)}
    with pytest.raises(BadRequest, match="not weights alone: contains an object of"):
        loaded(ask(saved(content, tmp_path), IMAGE, class_path=RESIDUAL))
    assert not made.exists()


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "net.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(BadRequest, match=r"a pointer of Git LFS, .*git lfs pull"):
        loaded(ask(tmp_path / "net.pt", IMAGE, class_path=RESIDUAL))


def test_a_whole_module_in_an_entry_names_the_cure(both, tmp_path):
    path = saved({"model": both[0]}, tmp_path)
    with pytest.raises(BadRequest, match=r"its entry 'model' is a whole module; save that alone"):
        loaded(ask(path, IMAGE, trust_code=True))
