"""Each rule against brute force: what it says carries rows does, and where it says that they meet, they do."""

import onnx
import pytest

from onnxserve_server.rows import registry, rules
from onnxserve_server.rows.analysis import analyse
from onnxserve_server.rows.axes import PURE, Axis
from onnxserve_server.rows.values import Value
from onnxserve_server.spec import Rows
from support.brute_force import specs, witness
from support.row_cases import CASES
from support.row_cases_others import ML_CASES, MS_CASES

ALL = [*CASES, *ML_CASES, *MS_CASES]
CARRIED = [(case, where) for case in ALL for where in case.carries]
MEETING = [(case, where) for case in ALL for where in case.meets]


def name_of(value):
    return f"{value.domain}:{value.op}".strip(":") if not isinstance(value, str) else value.replace(" ", ",")


def found(model, along):
    return analyse(model, *specs(model, axes=along)).rows


@pytest.mark.parametrize(("case", "where"), CARRIED, ids=name_of)
def test_rows_along_a_carried_axis_do_not_change_each_other(case, where):
    model, along = case.model(where)
    verdict = analyse(model, *specs(model, axes=along))
    assert (verdict.rows, verdict.reason) == (Rows.INDEPENDENT, "")
    assert not case.kernel or witness(model, axes=along, draws=case.draws(), tolerance=1e-4, seeds=range(2)) == ""


@pytest.mark.parametrize(("case", "where"), MEETING, ids=name_of)
def test_rows_along_a_mixed_axis_change_each_other(case, where):
    model, along = case.model(where)
    assert found(model, along) is Rows.MEET
    assert not case.kernel or witness(model, axes=along, draws=case.draws(), tolerance=1e-4, seeds=range(2))


def carry(case, where):
    """A rule that says of every operator that it carries the axis of the rows."""
    _, along = case.model(where)

    def rule(node, inputs):
        outs = [along[f"y{k}"] for k in range(node.outputs)]
        return [Value(axes=(*[Axis(1)] * axis, PURE)) for axis in outs]

    return rule


@pytest.mark.parametrize(("case", "where"), MEETING, ids=name_of)
def test_a_rule_that_carried_the_axis_instead_would_be_found_out(case, where, monkeypatch):
    """With such a rule the model is called independent, and the test above shows that it is not."""
    model, along = case.model(where)
    monkeypatch.setitem(registry.RULES, (case.domain, case.op), carry(case, where))
    assert found(model, along) is Rows.INDEPENDENT


ELSEWHERE = {  # in whole models, see test_analysis and test_control
    *("If", "Loop", "Scan", "Constant", "ConstantOfShape", "Range", "SequenceAt", "SequenceConstruct", "SequenceEmpty"),
    *("SequenceInsert", "SequenceLength", "SplitToSequence", "ConcatFromSequence"),
}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def test_every_rule_is_exercised():
    tried = {(case.domain, case.op) for case in ALL}
    left = {key for key in rules.RULES if key not in tried and key[1] not in ELSEWHERE | RANDOM}
    assert left == set()


def test_every_operator_with_a_rule_exists():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    unknown = {name for domain, name in rules.RULES if domain == "" and name not in known}
    assert unknown == {"SimplifiedLayerNormalization"}  # ONNX Runtime's own, in the standard's domain
