"""What is tried where an exporter's file is wrong, and how the fault is narrowed down."""

import pytest
import torch
from torch import nn

from onnxserve_converters import conversion
from onnxserve_converters.errors import NotProved
from support import torch_nets as nets
from support.torch_sources import in_memory

X = "x=float32[batch,4]"


class Shifted(nn.Module):
    """Adds 1 while the newer exporter runs, and if `both` while the older one does."""

    def __init__(self, both):
        super().__init__()
        self.both = both

    def forward(self, x):
        wrong = torch.compiler.is_exporting() or (self.both and torch.onnx.is_in_onnx_export())
        return x + (1.0 if wrong else 0.0)


def network(both):
    """Layers of which the third is exported wrongly."""
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Shifted(both), nn.Linear(8, 3))
    return nets.seeded(lambda: layers)


def test_a_file_that_no_exporter_gets_right_is_refused_with_the_first_module_that_differs(tmp_path):
    with pytest.raises(NotProved) as caught:
        conversion.run(in_memory(network(both=True), tmp_path, X), tmp_path / "models" / "net")
    found = caught.value.report["first_difference"]
    assert (found["module"], found["operator"]) == ("2", "Add")
    assert f"the values differ first in module 2, at node {found['node']} (Add)" in str(caught.value)
    assert [each["export"] for each in caught.value.report["tried"]] == [
        "torch.onnx.export(dynamo=True)",
        "torch.onnx.export(dynamo=True) with opset 18",
        "torch.onnx.export(dynamo=False)",
        "torch.onnx.export(dynamo=False) with opset 18",
    ]
    assert not list(tmp_path.glob("models/net*"))


def test_the_other_exporter_is_tried_where_the_file_of_the_first_is_wrong(tmp_path):
    made = conversion.run(in_memory(network(both=False), tmp_path, X), tmp_path / "models" / "net")
    assert all(row["passes"] for row in made.report["proof"]["parity"])
    assert any(
        note.startswith("exported by torch.onnx.export(dynamo=False), for the file of torch.onnx.export(dynamo=True)")
        for note in made.report["notes"]
    )
    assert len(made.report["tried"]) == 2
