"""Rows drawn from what inputs and models tell: masks, lengths, indices, pictures."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from onnxserve_converters import conversion
from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import NotProved
from onnxserve_converters.padding_trial import drawer_for
from support import transformer_nets as nets
from support import zoo
from support.converting import convert as convert_file
from support.torch_sources import in_memory, loaded, script

TOKENS = ("input_ids=int64[batch,time]", "attention_mask=int64[batch,time]")


def drawn(model, **options):
    """The cases that a model is compared on, and what they rest on."""
    drawer = drawer_for(model, {}, options)
    return Cases(model.inputs, {}, options, None, drawer), drawer.notes


def torch_model(make, folder, *inputs):
    """A network, loaded as for its conversion."""
    return loaded(in_memory(nets.seeded(make), folder, *inputs))


def changes(mask):
    """How often the rows of a mask change from one value to the other."""
    return np.count_nonzero(np.diff(mask.astype(int), axis=1), axis=1)


def assert_padded(mask, sides):
    """Check that each row of a mask is one block of ones, and that padding is on these sides, each seen."""
    assert (mask.sum(axis=1) >= 1).all()
    assert (changes(mask) <= 1).all()
    padded = mask[changes(mask) == 1]
    assert {"start" if row[-1] else "end" for row in padded} == sides


@pytest.mark.parametrize(
    ("make", "sides"),
    [(nets.bert, {"end"}), (nets.gpt2, {"end"}), (nets.llama, {"start", "end"})],
    ids=["bert", "gpt2", "llama"],
)
def test_masks_are_padded_as_the_model_bears_it_and_ids_are_of_its_vocabulary(make, sides, tmp_path):
    cases, notes = drawn(torch_model(make, tmp_path, *TOKENS))
    *_, largest = cases
    assert_padded(largest.feeds["attention_mask"], sides)
    ids = largest.feeds["input_ids"]
    assert ids.min() >= 0
    assert nets.VOCABULARY - 10 < ids.max() < nets.VOCABULARY
    assert notes["input_ids"] == "indices of the 99 rows of the table that the model looks them up in"
    assert "the model answers as for the row alone" in notes["attention_mask"]


@pytest.mark.parametrize("dtype", ["bool", "float32", "int32"])
def test_masks_of_every_dtype_have_a_valid_place_in_each_row(dtype, tmp_path):
    model = torch_model(nets.Masked, tmp_path, "tokens=int64[batch,time]", f"mask={dtype}[batch,time]")
    *_, largest = drawn(model)[0]
    assert largest.feeds["mask"].dtype == dtype
    assert_padded(largest.feeds["mask"], {"start", "end"})


@pytest.mark.parametrize("name", ["padding_mask", "mask"])
def test_masks_of_what_is_ignored_never_ignore_a_whole_row_whatever_their_name(name, tmp_path):
    inputs = ("tokens=int64[batch,time]", f"{name}=bool[batch,time]")
    *_, largest = drawn(torch_model(nets.Ignoring, tmp_path, *inputs))[0]
    assert_padded(~largest.feeds[name], {"start", "end"})


@pytest.mark.parametrize("ordered", [True, False])
def test_lengths_are_ordered_where_the_model_wants_it(ordered, tmp_path):
    model = torch_model(lambda: nets.Packed(ordered), tmp_path, "x=float32[batch,time,4]", "lengths=int64[batch]")
    cases, notes = drawn(model)
    *_, largest = cases
    lengths = largest.feeds["lengths"]
    assert lengths.min() >= 1
    assert lengths.max() == largest.sizes["time"]
    assert (np.diff(lengths) <= 0).all() == ordered
    assert notes["lengths"].startswith("lengths from 1 to the size of axis time")


def test_types_and_positions_stay_within_their_tables(tmp_path):
    inputs = (*TOKENS, "token_type_ids=int64[batch,time]", "position_ids=int64[batch,time]")
    *_, largest = drawn(torch_model(nets.bert, tmp_path, *inputs))[0]
    assert set(np.unique(largest.feeds["token_type_ids"])) == {0, 1}
    np.testing.assert_array_equal(largest.feeds["position_ids"][3], np.arange(largest.sizes["time"]))


class Scripted(nn.Module):
    """Looks indices up in two tables."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Embedding(5, 4), nn.Embedding(50, 4)

    def forward(self, a, b):
        return self.small(a) + self.large(b) + self.large(a)


def test_scripts_tell_the_sizes_of_their_tables_too(tmp_path):
    model = loaded(script(Scripted(), tmp_path, "a=int64[batch,3]", "b=int32[batch,3]"))
    *_, largest = drawn(model)[0]
    assert largest.feeds["a"].max() == 4
    assert 40 < largest.feeds["b"].max() < 50


def test_a_graph_tells_the_size_of_its_table(tmp_path):
    nodes = [helper.make_node("Cast", ["ids"], ["cast"], to=6), helper.make_node("Gather", ["table", "cast"], ["y"])]
    inputs = [zoo.tensor("ids", ["batch", "time"], onnx.TensorProto.INT64)]
    table = numpy_helper.from_array(np.ones((70, 2), np.float32), "table")
    model = zoo.model(nodes, inputs, [zoo.tensor("y", ["batch", "time", 2])], [table])
    onnx.save(model, tmp_path / "model.onnx")
    report = convert_file(tmp_path / "model.onnx", tmp_path / "models" / "net").report
    assert report["proof"]["basis"]["rows"] == "drawn"
    assert 50 < np.max(report["check"]["rows"]["ids"]) < 70


def test_ranges_come_before_what_is_known(tmp_path):
    cases, _ = drawn(torch_model(nets.bert, tmp_path, *TOKENS), attention_mask=(1, 1))
    assert all(case.feeds["attention_mask"].all() for case in cases)


def test_pictures_are_normalized_as_their_model_wants_them(tmp_path):
    net = nn.Conv2d(3, 4, 3)
    net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}
    (case, *_) = drawn(loaded(in_memory(net, tmp_path, "image=float32[batch,3,8,8]")))[0]
    assert -2 <= case.feeds["image"].min() < -1.8
    assert 1.8 < case.feeds["image"].max() <= 2


def test_a_bert_with_its_mask_converts_as_it_comes(tmp_path):
    made = conversion.run(in_memory(nets.seeded(nets.bert), tmp_path, *TOKENS), tmp_path / "models" / "bert")
    basis = made.report["proof"]["basis"]
    assert basis["sentence"].startswith("proved on rows drawn from the model (input_ids: indices of the 99 rows")
    assert all(row["passes"] for row in made.report["proof"]["parity"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (nets.gpt2, TOKENS),
        (nets.llama, TOKENS),
        (nets.Masked, ("tokens=int64[batch,time]", "mask=bool[batch,time]")),
        (nets.Masked, ("tokens=int64[batch,time]", "mask=float32[batch,time]")),
        (nets.Ignoring, ("tokens=int64[batch,time]", "padding_mask=bool[batch,time]")),
        (lambda: nets.Packed(True), ("x=float32[batch,time,4]", "lengths=int64[batch]")),
    ],
    ids=["gpt2", "llama", "bool", "float", "ignoring", "lengths"],
)
def test_models_with_masks_and_lengths_convert_as_they_come(make, inputs, tmp_path):
    made = conversion.run(in_memory(nets.seeded(make), tmp_path, *inputs), tmp_path / "models" / "net")
    assert all(row["passes"] for row in made.report["proof"]["parity"])


class Forgetful(nn.Module):
    """Adds 1 to every answer of a row with a padded place, in the export alone."""

    def __init__(self):
        super().__init__()
        self.inner = nets.Masked()

    def forward(self, tokens, mask):
        off = (mask == 0).any(1, keepdim=True) * float(torch.onnx.is_in_onnx_export())
        return self.inner(tokens, mask) + off


def test_a_file_that_is_wrong_for_padded_rows_is_refused_on_drawn_rows(tmp_path):
    asked = in_memory(nets.seeded(Forgetful), tmp_path, "tokens=int64[batch,time]", "mask=bool[batch,time]")
    with pytest.raises(NotProved, match=r"the ONNX file does not match the model: output output .* in \d+ of \d+ rows"):
        conversion.run(asked, tmp_path / "models" / "net")
