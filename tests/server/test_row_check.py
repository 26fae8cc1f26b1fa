"""The check at load: rows that change each other are found by trying alone, and what only rounds differently is not."""

import json
import math
import threading

import onnx
import pytest

from onnxserve_server.runtime import row_check
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.draws import Draws, Hints, Values
from onnxserve_server.runtime.limited import LimitedRuns
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.spec import Rows, RowVerdict
from support import zoo, zoo_rows

INT64, FLOAT = zoo.INT64, zoo.FLOAT


@pytest.fixture
def analysed(monkeypatch):
    """What the graph is said to show; at first nothing, so that trying alone must find out."""
    verdicts = [RowVerdict()]
    monkeypatch.setattr(row_check, "_analyse", lambda *_: (verdicts[-1], ()))
    return verdicts


@pytest.fixture
def examine(analysed, tmp_path):
    def examine(model, report=None, **options):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        if report is not None:
            (tmp_path / "report.json").write_text(json.dumps(report))
        return row_check.examine(Session(path, SessionOptions(**options)))

    return examine


MEETING = {
    **{f"share of the largest {shape}": zoo_rows.share_of_largest(shape) for shape in (["n"], ["n", 1], ["n", 3])},
    "share of the largest, floats": zoo_rows.share_of_largest(["n", 3], FLOAT),
    "mask": zoo.masks(),
    "mask, lengths first": zoo_rows.masks_beside_ids(lengths_first=True),
    "mask, ids first": zoo_rows.masks_beside_ids(lengths_first=False),
    "a neighbour above 7": zoo_rows.loud_neighbour(7),
    "any above 1, as most rows are themselves": zoo_rows.loud_neighbour(1, columns=16),
    "a neighbour above 300": zoo_rows.loud_neighbour(300),
    "a high id of a table": zoo_rows.loud_id(threshold=9_990, size=10_000),
    "scale of 8 bits": zoo_rows.quantized(),
    "number of rows": zoo_rows.by_count(),
    "number of the row": zoo_rows.by_place(),
    "mean": zoo.mixing(),
}


@pytest.mark.parametrize("model", MEETING.values(), ids=MEETING)
def test_rows_that_depend_on_each_other_are_found_by_trying(examine, model):
    verdict = examine(model)
    assert (verdict.batchable, verdict.rows.rows) == (False, Rows.DEPENDENT)
    assert verdict.reason == verdict.rows.reason
    assert "depends on the other rows of its batch: " in verdict.reason


APART = {
    "sums in another order": zoo_rows.sensitive(),
    "the largest of many": zoo_rows.largest_of_many(),
    "the fifty largest of many": zoo_rows.largest_of_many(50),
    "ids of tables of unequal sizes": zoo_rows.embedded([10, 2, 30_000]),
    "recurrent": zoo.lstm(),
}


@pytest.mark.parametrize("model", APART.values(), ids=APART)
def test_rows_that_do_not_are_not_accused(examine, model):
    verdict = examine(model)
    assert (verdict.batchable, verdict.rows.rows) == (True, Rows.UNKNOWN)
    assert "no row changed with its neighbours in " in verdict.rows.reason


def test_a_small_witness_is_shown_whole(examine):
    reason = examine(zoo_rows.share_of_largest(["n"])).reason
    assert reason.endswith("row 2 is [1] in the batch x=[0, 0, 1], and [0] in x=[65535, 0, 1]")


def test_a_large_witness_is_shown_by_its_change(examine):
    assert "of its largest value when its neighbours become" in examine(zoo_rows.quantized()).reason


def test_another_rounding_at_other_batch_sizes_is_reported_and_no_dependence(examine):
    verdict = examine(zoo_rows.sensitive())
    assert verdict.batchable
    assert "; rounding at other batch sizes differs by up to " in verdict.rows.reason


def test_random_outputs_are_not_compared_and_others_are(examine):
    verdict = examine(zoo_rows.noisy())
    assert verdict.batchable
    assert verdict.rows.reason.endswith("; not compared, for two runs of the same rows differ: y")


def test_a_tolerance_allows_so_large_a_change(examine):
    ranges = {"check": {"ranges": {"x": [-1, 1]}}}
    assert not examine(zoo_rows.quantized(), ranges).batchable
    assert not examine(zoo_rows.quantized(), ranges, tolerance=1e-5).batchable
    assert examine(zoo_rows.quantized(), ranges, tolerance=0.1).batchable


def test_the_tolerance_of_the_largest_change_is_enough(examine):
    ranges = {"check": {"ranges": {"x": [-1, 1]}}}
    found = examine(zoo_rows.quantized(), ranges)
    assert f" changes by {found.tolerance:.2g} of its largest value" in found.reason
    assert 1e-5 < found.tolerance < 0.1
    assert examine(zoo_rows.quantized(), ranges, tolerance=found.tolerance).batchable


@pytest.mark.parametrize("tolerance", [None, 0.9])
def test_no_tolerance_allows_another_label(examine, tolerance):
    ranges = {"check": {"ranges": {"x": [-1, 1]}}}
    found = examine(zoo_rows.labelled(), ranges, tolerance=tolerance)
    assert "a row of its output label depends on the other rows" in found.reason
    assert found.tolerance == math.inf


def test_ranges_of_the_conversion_are_kept(examine):
    model = zoo_rows.loud_neighbour(7)
    for report in ({"check": {"ranges": {"x": [0, 5]}}}, {"asked": {"ranges": {"x": [0, 5]}}}):
        assert "row changed" in examine(model, report).rows.reason
    assert not examine(model, {"check": {"ranges": {"x": [0, 9]}}}).batchable


def test_rows_of_the_conversion_are_used(examine):
    model = zoo_rows.loud_id(threshold=3, size=10)
    rows = {"id": [1, 2, 0, 3]}
    assert examine(model, {"check": {"rows": rows, "ranges": {"id": [0, 3]}}}).batchable
    assert not examine(model, {"check": {"rows": {"id": [1, 2, 0, 7]}, "ranges": {"id": [0, 7]}}}).batchable


@pytest.mark.parametrize(
    "report",
    [
        [],
        {"check": 1},
        {"check": {"ranges": [], "rows": 7}},
        {"check": {"ranges": {"x": [0]}}},
        {"check": {"ranges": {"x": [2, 1]}}},
        {"check": {"ranges": {"x": ["a", "b"]}}},
        {"check": {"ranges": {"x": [0.2, 0.8]}}},
        {"check": {"ranges": {"x": [-(10**400), 10**400]}}},
        {"check": {"rows": {"x": [[1], [2, 3]]}}},
        {"check": {"rows": {"x": [[10**30]]}}},
        {"check": {"rows": {"x": []}}},
    ],
)
def test_a_report_that_says_nothing_of_use_does_no_harm(examine, report):
    assert examine(zoo.identity(INT64), report).batchable


def test_a_proved_model_is_checked_more_briefly(examine, analysed):
    def runs():
        return int(examine(zoo.double()).rows.reason.partition(" runs of ")[0].rpartition(" ")[2])

    unknown = runs()
    analysed.append(RowVerdict(Rows.INDEPENDENT))
    assert 10 < runs() < unknown


def test_a_witness_wins_over_the_graph_and_names_its_node(examine, analysed):
    analysed.append(RowVerdict(Rows.MEET, "they are divided by their largest", "the_largest"))
    verdict = examine(zoo_rows.share_of_largest(["n"]))
    assert (verdict.rows.rows, verdict.rows.node) == (Rows.DEPENDENT, "the_largest")
    assert verdict.reason.endswith(" (they meet at node the_largest)")
    analysed.append(RowVerdict(Rows.INDEPENDENT))
    verdict = examine(zoo_rows.share_of_largest(["n"]))
    assert (verdict.rows.rows, verdict.analysed.rows) == (Rows.DEPENDENT, Rows.INDEPENDENT)


def test_where_rows_meet_they_are_not_batched_even_if_none_changed(examine, analysed):
    analysed.append(RowVerdict(Rows.MEET, "they may be added", "sum"))
    verdict = examine(zoo.double())
    assert (verdict.batchable, verdict.rows.rows, verdict.rows.node) == (False, Rows.MEET, "sum")
    assert verdict.reason.startswith("its rows meet at node sum: they may be added; no row changed")


def test_an_output_that_the_graph_wrongly_takes_for_shared_is_found_by_trying(examine, monkeypatch):
    monkeypatch.setattr(row_check, "_analyse", lambda *_: (RowVerdict(Rows.INDEPENDENT), ("y",)))
    for model in (zoo.double(), zoo_rows.quantized()):
        assert examine(model).rows.rows is Rows.DEPENDENT


def test_the_check_is_bounded_in_time(examine, monkeypatch):
    monkeypatch.setattr(row_check, "_SECONDS", 0.0)
    verdict = examine(zoo.double())
    assert verdict.batchable
    assert "; not tried for lack of time or memory: batches of 2, 5, 8 rows" in verdict.rows.reason


def test_runs_that_take_much_longer_than_others_are_stopped(examine):
    assert examine(zoo.slow(factor=30)).batchable  # some of its rows would take a quarter of an hour


class Starved(Session):
    """A session whose runs wait for a CPU, as on a busy machine."""

    seconds = 0.0

    def run(self, feeds, outputs, handle=None):
        threading.Event().wait(self.seconds)
        return super().run(feeds, outputs, handle)


def test_runs_that_only_wait_are_not_stopped(tmp_path):
    onnx.save(zoo.double(), tmp_path / "model.onnx")
    session = Starved(tmp_path / "model.onnx", SessionOptions())
    feeds = Draws(session.inputs, 1, Hints()).feed(1, Values.SMALL)
    with LimitedRuns(session, 60) as runs:
        runs.measure(feeds)
        session.seconds = 0.3  # more than any limit of so short a run
        assert runs.run_briefly(feeds, 1).keys() == {"y"}


def test_an_input_that_makes_outputs_large_is_a_size_and_stays_small(examine):
    verdict = examine(zoo.resized(), axes=BatchAxes(shared=["size"]))
    assert verdict.batchable, (
        verdict.reason
    )  # of 9,999 x 9,999 a single kernel would take minutes, and no memory is left
    assert "no row changed" in verdict.rows.reason


def test_integers_that_must_not_be_0_are_found(examine):
    nodes = [onnx.helper.make_node("Div", ["x", "x"], ["y"])]  # one row of SMALL may run by chance
    assert examine(zoo.model(nodes, [zoo.tensor("x", ["n"], INT64)], [zoo.tensor("y", ["n"], INT64)])).batchable


def test_the_check_is_bounded_in_bytes(examine, monkeypatch):
    monkeypatch.setattr(row_check, "_MAX_BYTES", 100)  # a row of 2 x 3 floats has 24
    assert "; not tried for lack of time or memory: batches of 5, 8 rows" in examine(zoo.double()).rows.reason


def test_two_rows_that_are_too_large_are_not_run(examine, monkeypatch, analysed):
    monkeypatch.setattr(row_check, "_MAX_BYTES", 40)
    assert (
        examine(zoo.double()).reason
        == "no batch of made-up rows could be run: two take more than 0 MiB with their outputs"
    )
    analysed.append(RowVerdict(Rows.INDEPENDENT))
    proved = examine(zoo.double())
    assert (proved.batchable, proved.rows.reason[:38]) == (True, "no batch of made-up rows could be run:")


def test_rows_of_more_elements_than_any_check_takes_are_not_made(examine):
    shape = ["n", *(f"axis{i}" for i in range(9))]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    assert examine(zoo.model(nodes, [zoo.tensor("x", shape)], [zoo.tensor("y", shape)])).batchable  # of small axes
    shape = ["n", 2**27]
    verdict = examine(zoo.model(nodes, [zoo.tensor("x", shape)], [zoo.tensor("y", shape)]))
    assert verdict.reason.endswith("or has more than 67108864 elements, which is too much to try")


def test_a_witness_that_is_not_a_number_is_a_witness(examine):
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        onnx.helper.make_node("Sub", ["largest", "limit"], ["below"]),
        onnx.helper.make_node("Neg", ["below"], ["above"]),
        onnx.helper.make_node("Sqrt", ["above"], ["root"]),  # NaN where any x is above 100
        onnx.helper.make_node("Sub", ["root", "root"], ["zero"]),
        onnx.helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    model = zoo.model(nodes, [zoo.tensor("x", ["n", 2])], [zoo.tensor("y", ["n", 2])], [zoo.constant("limit", 100)])
    assert "[[nan, nan]]" in examine(model).reason


def test_two_nans_are_the_same(examine):
    nodes = [onnx.helper.make_node("Sqrt", ["x"], ["y"])]  # NaN of negative x
    assert examine(zoo.model(nodes, [zoo.tensor("x", ["n", 2])], [zoo.tensor("y", ["n", 2])])).batchable
