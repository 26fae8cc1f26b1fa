"""Whether a model is batched: what its graph shows, what trying has shown, and what model.yaml says of it."""

import json
import logging
import math
from dataclasses import replace

import onnx
import pytest

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository import loader
from onnxserve_server.repository.config import read_config
from onnxserve_server.repository.discovery import Found
from onnxserve_server.runtime import row_check
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.runtime.verdict import Verdict
from onnxserve_server.spec import Rows, RowVerdict
from support import zoo, zoo_rows

PROVED = Verdict(True, "", RowVerdict(Rows.INDEPENDENT, "proof"), RowVerdict(Rows.INDEPENDENT))
UNKNOWN = Verdict(True, "", RowVerdict(Rows.UNKNOWN, "not known", "odd"))
MEET = Verdict(False, "they meet", RowVerdict(Rows.MEET, "they meet", "sum"))
DEPENDENT = Verdict(False, "row 0 changes", RowVerdict(Rows.DEPENDENT, "row 0 changes"), tolerance=0.0141)
ALONE = Verdict(False, "it runs with 1 row but not with 3: no")


@pytest.fixture
def policy(tmp_path):
    def policy(verdict, text=""):
        file = tmp_path / "model.yaml"
        file.write_text(f"batching: {{{text}}}")
        found = Found(
            name="m", version="1", path=tmp_path / "model.onnx", config=read_config(file, {}), config_file=file
        )
        return loader._policy(found, verdict, is_random=False)

    return policy


@pytest.mark.parametrize(
    ("verdict", "text", "enabled", "reason"),
    [
        (PROVED, "", True, ""),
        (PROVED, "enabled: proved", True, ""),
        (PROVED, "enabled: false", False, "model.yaml says so"),
        (UNKNOWN, "", True, ""),
        (UNKNOWN, "enabled: proved", False, "batching.enabled is proved, and this is not: not known"),
        (UNKNOWN, "enabled: true", True, ""),
        (MEET, "", False, "they meet"),
        (MEET, "enabled: proved", False, "they meet"),
        (MEET, "enabled: true", True, ""),
        (DEPENDENT, "", False, "row 0 changes"),
        (DEPENDENT, "enabled: false", False, "model.yaml says so"),
        (ALONE, "", False, "it runs with 1 row but not with 3: no"),
        (ALONE, "enabled: true", True, ""),
    ],
)
def test_what_is_batched(policy, verdict, text, enabled, reason):
    batching = policy(verdict, text)
    assert (batching.enabled, batching.reason, batching.rows) == (enabled, reason, verdict.rows)
    assert batching.max_rows == (64 if enabled else 1)


@pytest.mark.parametrize(
    ("tolerance", "cure"),
    [
        (0.0141, "remove the line, or set batching.tolerance to 0.015 if so large a difference does not matter"),
        (1e-7, "remove the line, or set batching.tolerance to 0.00000010 if so large a difference does not matter"),
        *(
            (
                tolerance,
                "remove the line, for no batching.tolerance allows that; where only made-up values show it, give real "
                "ones as check.rows and check.ranges in report.json beside the model",
            )
            for tolerance in (0.999, math.inf)
        ),
    ],
)
def test_rows_that_change_each_other_are_not_batched_whatever_model_yaml_says(policy, tmp_path, tolerance, cure):
    with pytest.raises(ConfigurationError) as raised:
        policy(replace(DEPENDENT, tolerance=tolerance), "enabled: true")
    assert str(raised.value) == (
        f"{tmp_path}/model.yaml: batching.enabled: the model cannot be batched: row 0 changes; {cure}"
    )


@pytest.mark.parametrize(
    ("model", "witness"),
    [
        (zoo_rows.places_of_nonzeros(), r"its output y has the shape \[12, 2\] \(they meet at node places\)"),
        (zoo_rows.compressed(), r"(its output y has the shape|with some rows its shape is)"),
    ],
    ids=["NonZero", "Compress"],
)
def test_outputs_without_a_row_for_each_row_are_not_batched_whatever_model_yaml_says(policy, tmp_path, model, witness):
    onnx.save(model, tmp_path / "model.onnx")
    verdict = row_check.examine(Session(tmp_path / "model.onnx", SessionOptions()))
    assert not policy(verdict).enabled
    with pytest.raises(ConfigurationError, match=rf"batching.enabled: the model cannot be batched: .*{witness}"):
        policy(verdict, "enabled: true")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("enabled: always", "batching.enabled: must be true, false or proved"),
        ("tolerance: -1", "batching.tolerance: input should be greater than or equal to 0"),
        ("tolerance: 1", "batching.tolerance: input should be less than 1"),
    ],
)
def test_bad_values_are_named(policy, text, fault):
    with pytest.raises(ConfigurationError, match=f"model.yaml: {fault}$"):
        policy(PROVED, text)


@pytest.mark.parametrize(("analysed", "lines"), [(PROVED.analysed, 1), (MEET.rows, 0)])
def test_a_witness_against_the_graph_is_an_error_that_asks_for_a_report(serve, caplog, analysed, lines):
    spec = serve({"m": zoo.double()}).app.engine.table.models()[0].spec
    with caplog.at_level(logging.ERROR):
        loader._report_contradiction(spec, Verdict(False, "row 0 changes", DEPENDENT.rows, analysed))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == lines
    assert all("rows for independent, but row 0 changes; please report this as a bug" in line for line in found)


def test_metadata_that_does_not_fit_is_ignored_with_a_warning_that_names_it(serve, caplog):
    foreign = {"batch_axis": '{"x": 9}', "labels": '{"y": ["a", "b"]}'}
    with caplog.at_level(logging.WARNING):
        (info,) = serve({"m": zoo.layered(foreign)}).client.models()
    assert info.metadata == foreign
    lines = [record.getMessage() for record in caplog.records if "metadata" in record.getMessage()]
    assert [line.partition("; ")[0] for line in lines] == [
        "model m/1: metadata batch_axis.x: its shape [batch, 3] has no axis 9",
        "model m/1: metadata labels.y: 2 names for 3 classes",
    ]


def test_the_verdict_is_on_the_wire(serve):
    server = serve({"proved": zoo.double(), "meets": zoo.slow(), "depends": zoo_rows.share_of_largest(["n"])})
    rows = {info.name: info.batching.rows for info in server.client.models()}
    assert {name: verdict.rows for name, verdict in rows.items()} == {
        "proved": "INDEPENDENT",
        "meets": "MEET",
        "depends": "DEPENDENT",
    }
    assert rows["meets"].node == "largest"
    assert "row 2 is [1] in the batch x=[0, 0, 1], and [0] in x=[65535, 0, 1]" in rows["depends"].reason


def test_a_small_difference_is_allowed_by_tolerance_once_batching_is_enabled(serving, tmp_path):
    config = "batching: {enabled: true, tolerance: 0.1}"
    root = zoo.write(tmp_path / "models", {"m": zoo_rows.quantized()}, {"m": config})
    (root / "m" / "1" / "report.json").write_text(json.dumps({"check": {"ranges": {"x": [-1, 1]}}}))
    with serving(root) as server:
        batching = server.client.model("m").batching
    assert (batching.enabled, batching.rows.rows) == (True, "MEET")
    assert "no row changed with its neighbours by more than the tolerance of 0.1 in" in batching.rows.reason
