"""Ask promtool what the rules make of series, at moments of them."""

import json
import shutil
import subprocess

import pytest

STEP = 15
"""Seconds from one sample of a series to the next, and from one evaluation of the rules to the next."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing; Debian's package is prometheus"
)


def evaluate(folder, groups, series, wanted, step=STEP):
    """Fail unless expressions have the values that are wanted.

    Args:
        folder: for promtool's files.
        groups: of rules.
        series: {series: values}, in promtool's notation, a value each `step` seconds.
        wanted: [(step, expression, value)]; the value is of the one sample without labels, None where there is none.
    """
    every = f"{step * 1000:.0f}ms"
    checks = [
        {
            "expr": expression,
            "eval_time": f"{at * step * 1000:.0f}ms",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for at, expression, value in wanted
    ]
    test = {
        "interval": every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": checks,
    }
    (folder / "rules.yaml").write_text(json.dumps({"groups": groups}))  # JSON is YAML, too
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "tests": [test]}
    (folder / "tests.yaml").write_text(json.dumps(tests))
    command = ["promtool", "test", "rules", "tests.yaml"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def firing(alert):
    """An expression: how many of an alert fire."""
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
