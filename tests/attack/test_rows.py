"""The analysis of rows against brute force: on graphs made at random, and on what exporters make."""

import time
from collections import Counter

import pytest

from onnxserve_server.rows import registry
from onnxserve_server.rows.analysis import analyse
from onnxserve_server.spec import Rows
from support import exported, exported_nets
from support.brute_force import specs, witness
from support.claims import claims
from support.growing_steps import grown
from support.random_graphs import random_graph


def test_no_random_graph_whose_rows_depend_on_each_other_is_called_independent(attack):
    found = Counter()
    wrong, seed, tried = [], 0, attack.size(60, 400)
    while found.total() < tried:
        seed += 1
        model, axes = random_graph(seed)
        try:
            seen = witness(model, axes=axes, seeds=range(2), tolerance=1e-4, optimize=False)
        except Exception:  # one row alone fails: nothing to compare
            continue
        verdict = analyse(model, *specs(model, axes=axes))
        found[verdict.rows.value, bool(seen)] += 1
        if seen and verdict.rows is Rows.INDEPENDENT:
            wrong.append((seed, seen))
    for (rows, dependent), count in sorted(found.items()):
        attack.count(f"random graphs {'dependent' if dependent else 'without a witness'}, called {rows}", count)
    assert wrong == []
    assert found[Rows.INDEPENDENT, False] > tried / 5  # it is no analysis that finds fault with everything


def test_what_the_analysis_says_of_each_value_of_a_graph_holds(attack):
    """Sizes, contents and places as well as rows: what is wrong about one of them is a wrong verdict elsewhere."""
    found, wrong = Counter(), []
    for seed in range(attack.size(25, 1000)):
        for name, claim in claims(grown(seed)).items():
            found[claim.kind] += 1
            wrong += [(seed, name, claim)] if claim.wrong else []
    for kind, count in sorted(found.items()):
        attack.count(f"values of grown graphs called {kind}", count)
    assert wrong == []
    assert found["independent"] > found.total() / 20


def test_a_rule_that_is_wrong_is_found_out_by_graphs_that_grow(monkeypatch):
    monkeypatch.setitem(registry.RULES, ("", "CumSum"), lambda node, inputs: [inputs[0].bare()])
    assert any(claim.wrong for seed in range(30) for claim in claims(grown(seed)).values())


def exports(*, whole):
    """What exporters make: by PyTorch's two, from scikit-learn, quantized, fused, and a network for speech."""
    some = None if whole else {"masked attention", "pooled at argmax", "windows", "centered"}
    scripted = [*exported.networks(exported_nets.INDEPENDENT, dynamo=False, names=some)]
    yield from scripted
    yield from exported.networks(exported_nets.DEPENDENT, dynamo=False, names=some)
    if whole:
        yield from exported.networks(exported_nets.INDEPENDENT, dynamo=True)
        yield from exported.networks(exported_nets.DEPENDENT, dynamo=True)
        yield from exported.estimators()
        yield exported.voice()
    chosen = [each for each in scripted if whole or each.name.startswith("masked")]
    yield from exported.quantized(chosen[1:4] if whole else chosen)
    yield from exported.optimized(chosen[2:12] if whole else chosen)


@pytest.mark.timeout(900)
def test_real_exports_get_a_verdict_and_few_independent_ones_are_said_to_meet(attack):
    verdicts, wrong, meeting, unknown = Counter(), [], [], []
    for export in exports(whole=attack.full):
        began = time.process_time()
        verdict = analyse(export.model, *specs(export.model, axes=export.axes))
        verdicts["ms in all"] += int((time.process_time() - began) * 1e3)
        try:
            seen = witness(export.model, draws=export.draws, axes=export.axes, seeds=range(2))
        except Exception as error:  # an export that froze the number of rows
            seen = f"one row alone does not run: {error}"
        if export.name.partition(",")[0] in exported_nets.DEPENDENT:
            seen = seen or "it is made so, and the draws do not show it"
        verdicts["dependent" if seen else "independent", verdict.rows] += 1
        if verdict.rows is Rows.UNKNOWN:
            unknown.append(f"{export.name}: {verdict.reason}")
        elif seen and verdict.rows is Rows.INDEPENDENT:
            wrong.append(f"{export.name}: {seen}")
        elif not seen and verdict.rows is Rows.MEET:
            meeting.append(f"{export.name}: {verdict.reason}")
    taken = verdicts.pop("ms in all")
    for (truth, rows), count in sorted(verdicts.items()):
        attack.count(f"{truth} exports called {rows.value}", count)
    attack.count("ms for all of them", taken)
    assert wrong == []
    assert len(unknown) <= verdicts.total() / 10, unknown
    assert len(meeting) <= sum(count for (truth, _), count in verdicts.items() if truth == "independent") / 20, meeting
