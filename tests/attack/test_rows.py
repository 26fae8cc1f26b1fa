"""The analysis of rows against brute force: on graphs made at random, and on what exporters make."""

from collections import Counter

from onnxserve_server.rows.analysis import analyse
from onnxserve_server.spec import Rows
from support.brute_force import specs, witness
from support.random_graphs import random_graph


def test_no_random_graph_whose_rows_depend_on_each_other_is_called_independent(attack):
    found = Counter()
    wrong, seed, tried = [], 0, attack.size(60, 400)
    while found.total() < tried:
        seed += 1
        model, axes = random_graph(seed)
        try:
            seen = witness(model, axes=axes, seeds=range(2), tolerance=1e-4)
        except Exception:  # noqa: BLE001, S112, PERF203 - it does not run for one row alone: nothing to compare
            continue
        verdict = analyse(model, *specs(model, axes=axes))
        found[verdict.rows.value, bool(seen)] += 1
        if seen and verdict.rows is Rows.INDEPENDENT:
            wrong.append((seed, seen))
    for (rows, dependent), count in sorted(found.items()):
        attack.count(f"random graphs {'dependent' if dependent else 'without a witness'}, called {rows}", count)
    assert wrong == []
    assert found[Rows.INDEPENDENT, False] > tried / 5  # it is no analysis that finds fault with everything
