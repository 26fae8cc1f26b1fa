"""The probe: which requests would end the process, and what it may take to find out."""

import contextlib
import threading

import numpy as np
import onnx
import pytest

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime import prober as module
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.probe_process import ProbeEnded, ProbeProcess
from onnxserve_server.runtime.prober import ProbeLimits, Prober
from onnxserve_server.runtime.session import SessionOptions
from onnxserve_server.runtime.trials import changed
from onnxserve_server.spec import Condition
from support import zoo

MIN = -(2**63)
OPTIONS = SessionOptions()


@pytest.fixture(scope="module")
def prober():
    with Prober() as shared:
        yield shared


@pytest.fixture
def probe(tmp_path, prober):
    """Probe a model; returns what was found. With limits of its own it has a child of its own."""

    def start(model, options=OPTIONS, stop=None, **limits):
        onnx.save(model, tmp_path / "model.onnx")
        with Prober(ProbeLimits(**limits), stop) if limits else contextlib.nullcontext(prober) as chosen:
            return chosen.probe(tmp_path / "model.onnx", options, max_rows=4)

    return start


@pytest.mark.parametrize(
    ("model", "conditions"),
    [
        (zoo.gru(), [{Condition("x", 0, 0)}, {Condition("x", 1, 0)}]),
        (zoo.negated(), [{Condition("x", None, MIN)}]),
        (zoo.quotient(), [{Condition("x", None, MIN), Condition("y", None, -1)}]),
        (zoo.halves(2), [{Condition("x", None, MIN), Condition("x", None, -1)}]),
        (zoo.double(), []),
        (zoo.gather(), []),
    ],
    ids=["gru", "negated", "quotient", "halves", "double", "gather"],
)
def test_what_ends_the_process_becomes_a_rule_and_nothing_else_does(probe, model, conditions):
    findings = probe(model)
    assert [set(rule.conditions) for rule in findings.rules] == conditions
    assert all("ended the process (killed by signal " in rule.reason for rule in findings.rules)
    assert findings.verdict.batchable
    assert (findings.untried, findings.warm_up_failure, findings.warm_up_rows) == ("", "", 4)


@pytest.mark.parametrize("width", range(2, 14, 2))
@pytest.mark.parametrize("parts", ["halves", "neighbours"])
def test_parts_of_one_input_have_different_values_at_the_same_place(width, parts):
    pair = Condition("x", None, MIN), Condition("x", None, -1)
    seen = set()
    for trial in (pair, pair[::-1]):
        array = changed({"x": np.zeros((2, width), np.int64)}, trial)["x"]
        first, second = np.split(array, 2, axis=1) if parts == "halves" else (array[:, ::2], array[:, 1::2])
        seen |= set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    assert (MIN, -1) in seen


def test_a_trial_of_a_scalar_is_an_array():
    array = changed({"n": np.array(3)}, (Condition("n", None, -1),))["n"]
    assert isinstance(array, np.ndarray)
    assert array.shape == ()


def test_an_endless_run_is_stopped_and_the_model_is_not_warmed_up(probe):
    findings = probe(zoo.endless(), tries=1.0)
    assert findings.verdict.reason.endswith("it takes longer than --probe-timeout")
    assert findings.warm_up_rows == 0
    assert findings.untried.endswith(" gives, with: single axes of size 0")


def test_trials_that_time_was_not_left_for_are_named_and_no_rules(probe):
    findings = probe(zoo.endless_at(-1), tries=4.0)
    assert findings.rules == ()
    assert findings.untried == (
        "some requests were not tried for lack of time, which a longer --probe-timeout gives, with: integers at a "
        "limit, two limits in one input"
    )


def test_the_axes_of_many_inputs_are_each_tried(probe):
    findings = probe(zoo.many_inputs(22), tries=20.0)
    assert {rule.conditions for rule in findings.rules} == {(Condition("x21", axis, 0),) for axis in (1, 2)}


def test_where_the_model_runs_on_no_inputs_trials_count_for_nothing(probe):
    assert probe(zoo.gather_from_nothing()).untried.startswith("no made-up inputs were found that it runs on, ")


def test_integers_that_must_fit_each_other_are_found_and_tried(probe):
    findings = probe(zoo.parts(), SessionOptions(axes=BatchAxes(shared=["sizes"])))
    assert [set(rule.conditions) for rule in findings.rules] == [{Condition("x", None, MIN), Condition("x", None, -1)}]
    assert (findings.untried, findings.warm_up_rows, findings.verdict.batchable) == ("", 4, True)


def test_a_fixed_number_of_rows_is_kept(probe):
    findings = probe(zoo.fixed())
    assert (findings.untried, findings.warm_up_rows, findings.warm_up_failure) == ("", 1, "")


def tried():
    """What is known of a model in a trial of two sizes."""
    progress = module._Progress()
    progress.note({"step": "trial", "trial": [7, [["x", 1, 0], ["y", 0, 0]]], "first": 0})
    return progress


def test_a_trial_that_is_late_makes_no_rule_for_the_machine_may_be_busy():
    progress = tried()
    progress.note_death(ProbeEnded("it took longer than 65 s", is_late=True))
    assert progress.findings().rules == ()
    assert progress.as_request()["skip_trials"]
    assert progress.findings().untried == (
        "the trials ended with one for which axis 1 of input 'x' has the size 0 and axis 0 of input 'y' has the size "
        "0: the process that probes it was ended, it took longer than 65 s"
    )


def test_a_trial_that_takes_much_cpu_time_makes_one():
    progress = tried()
    progress.note_death(ProbeEnded("it took more than 4 s of CPU time"))
    (rule,) = progress.findings().rules
    assert rule.conditions == (Condition("x", 1, 0), Condition("y", 0, 0))
    assert progress.findings().untried == ""


def test_the_time_for_runs_is_one_for_all_children(probe, monkeypatch):
    requests, send = [], ProbeProcess.send
    monkeypatch.setattr(ProbeProcess, "send", lambda child, request: requests.append(request) or send(child, request))
    assert len(probe(zoo.gru()).rules) == 2
    spent = [request["spent"] for request in requests]
    assert spent[0] == 0 < spent[1] < spent[2]
    assert {request["seconds"] for request in requests} == {60.0}


def test_many_free_axes_are_tried_with_small_sizes(probe):
    shape = [f"axis{i}" for i in range(9)]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    findings = probe(zoo.model(nodes, [zoo.tensor("x", ["batch", *shape])], [zoo.tensor("y", ["batch", *shape])]))
    assert (findings.verdict.batchable, findings.warm_up_failure, findings.untried) == (True, "", "")


def test_a_row_that_is_too_large_is_not_made_up(probe):
    shape = ["batch", 2**28]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    findings = probe(zoo.model(nodes, [zoo.tensor("x", shape)], [zoo.tensor("y", shape)]))
    assert not findings.verdict.batchable
    assert (findings.warm_up_rows, findings.warm_up_failure[:45]) == (
        0,
        "one row of its inputs takes more than 256 MiB",
    )


def test_a_child_that_takes_too_much_memory_is_ended(probe):
    findings = probe(zoo.widened(2**29), memory_bytes=512 << 20)
    assert findings.verdict.reason == (
        "trying it ended the process that probes it (it took more than 512 MiB of memory)"
    )
    assert findings.warm_up_rows == 0


def test_a_model_that_dies_of_ordinary_inputs_is_not_batched_and_not_warmed_up(probe):
    findings = probe(zoo.fatal_inside(1))
    assert findings.verdict.reason == "trying it ended the process that probes it (killed by signal 8)"
    assert (findings.warm_up_rows, findings.untried) == (0, "")


def test_so_many_deaths_are_enough(probe, monkeypatch):
    monkeypatch.setattr(module, "_MAX_DEATHS", 1)
    monkeypatch.setattr(module, "_DEATHS_SHARE", 0)
    findings = probe(zoo.gru())
    assert len(findings.rules) == 1
    assert findings.untried == "1 trials ended the process that probes it, the rest were not made"


def test_more_deaths_are_borne_while_they_take_little_time(probe, monkeypatch):
    monkeypatch.setattr(module, "_MAX_DEATHS", 1)
    monkeypatch.setattr(module, "_DEATHS_SHARE", 100)
    findings = probe(zoo.gru())
    assert (len(findings.rules), findings.untried) == (2, "")


def test_a_stop_ends_a_probe_under_way(probe, monkeypatch):
    stop, steps = threading.Event(), []
    note = module._Progress.note

    def stop_at_the_first_run(progress, message):
        note(progress, message)
        steps.append(progress.step)
        stop.set()

    monkeypatch.setattr(module._Progress, "note", stop_at_the_first_run)
    with pytest.raises(ConfigurationError, match=r"it is not loaded, for the server stops$"):
        probe(zoo.endless(), stop=stop, tries=3000)
    assert len(steps) == 1
