"""Models of timm and torchvision by name: inputs, classes, and the message for a torchvision of another PyTorch."""

import importlib

import numpy as np
import pytest
import torch

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources import named
from onnxserve_converters.sources.detection import load_source
from support.converting import request, same
from support.torchvision_here import import_torchvision

torchvision = import_torchvision()

import timm  # noqa: E402 - it imports torchvision


def of_timm(classes):
    return timm.create_model("resnet18", num_classes=classes)


def of_torchvision(classes):
    return torchvision.models.mobilenet_v3_small(num_classes=classes)


@pytest.mark.parametrize(
    ("make", "class_path", "nested"),
    [
        (of_timm, "timm:resnet18", True),
        (of_torchvision, "torchvision:mobilenet_v3_small", False),
    ],
)
def test_a_checkpoint_needs_the_name_of_its_model_alone(tmp_path, make, class_path, nested):
    torch.manual_seed(0)
    net = make(5).eval()
    torch.save({"state_dict": net.state_dict()} if nested else net.state_dict(), tmp_path / "weights.pth")
    own = load_source(request(tmp_path / "weights.pth", class_path=class_path))[1]
    assert [str(spec) for spec in own.inputs] == ["image=float32[batch,3,224,224]"]
    feeds = own.drawer.draw({"batch": 2}, np.random.default_rng(0))
    with torch.no_grad():
        wanted = net(torch.tensor(feeds["image"])).numpy()
    assert wanted.shape == (2, 5)
    assert same(own.run(feeds)["output"], wanted)
    assert feeds["image"].min() < -2 and feeds["image"].max() > 2  # by ImageNet's means and deviations


def test_an_input_that_the_caller_describes_is_taken_as_it_is(tmp_path):
    torch.save(of_timm(5).state_dict(), tmp_path / "weights.pth")
    asked = request(tmp_path / "weights.pth", "x=float32[batch,3,64,64]", class_path="timm:resnet18")
    own = load_source(asked)[1]
    assert own.drawer.draw({"batch": 2}, np.random.default_rng(0))["x"].shape == (2, 3, 64, 64)


def test_functions_of_the_libraries_are_classes_as_any():
    assert not named.is_named("timm:create_model")
    assert not named.is_named("package.nets:resnet18")
    assert not named.is_named(None)


def test_an_unknown_name_is_refused():
    with pytest.raises(BadRequest, match=r"--class timm:resnet19: timm .* has no model of this name"):
        named.make_named("timm:resnet19", {}, {})


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def fails(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(BadRequest, match=r"torchvision was built for another PyTorch.*install the torchvision that"):
        named.is_named("torchvision:resnet18")
