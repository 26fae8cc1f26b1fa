"""What the rules make of series that are known, minute by minute: loads, and starts and stops of pods."""

import math

import pytest

from support.cluster import manifest
from support.promtool import STEP, evaluate, firing, needs_promtool
from support.staging import GROUPS

pytestmark = needs_promtool

MINUTE = 60 // STEP
POD = 'namespace="onnxserve",pod="p"'
UP = 'up{job="onnxserve",namespace="onnxserve",pod="%s"}'
AVAILABLE = 'kube_deployment_status_replicas_available{namespace="onnxserve",deployment="onnxserve"}'
WANTED = 'kube_deployment_spec_replicas{namespace="onnxserve",deployment="onnxserve"}'


def history(*parts):
    """Values of a series that had each of these for so many minutes: (value, minutes); "stale": there is no series."""
    return " ".join(
        " ".join(["stale"] * minutes * MINUTE) if value == "stale" else f"{value}+0x{minutes * MINUTE - 1}"
        for value, minutes in parts
    )


def minutes_of(alert, length, fires):
    """What is wanted of an alert: that it fires in these minutes of `length`, and in no other one."""
    return [(minute * MINUTE, firing(alert), int(minute in fires)) for minute in range(length)]


STARTS = {  # while no pod was there before: the name, and series of twenty minutes
    "from nothing": {AVAILABLE: history((0, 14), (1, 6)), WANTED: history((0, 4), (1, 16))},
    "soon after the last pod went": {
        AVAILABLE: history((1, 3), (0, 12), (1, 5)),
        WANTED: history((1, 3), (0, 2), (1, 15)),
    },
    "of a new installation": {
        AVAILABLE: history(("stale", 2), (0, 10), (2, 8)),
        WANTED: history(("stale", 2), (2, 18)),
    },
    "which Prometheus alone shows": {UP % "new": history(("stale", 2), (0, 10), (1, 8))},
    "soon after, which Prometheus alone shows": {
        UP % "old": history((1, 4), ("stale", 16)),
        UP % "new": history(("stale", 6), (0, 10), (1, 4)),
    },
}
ENDS = {  # of pods that were there, after 15 of 20 minutes
    "not available": {AVAILABLE: history((2, 15), (0, 5)), WANTED: history((2, 20))},
    "not up": {UP % "a": history((1, 15), (0, 5)), UP % "b": history((1, 12), (0, 8))},
}


@pytest.mark.parametrize("series", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("alert", ["OnnxserveUnavailable", "OnnxserveDown"])
def test_a_start_of_ten_minutes_is_left_alone(alert, series, tmp_path):
    evaluate(tmp_path, GROUPS, series, minutes_of(alert, 20, ()))


@pytest.mark.parametrize("series", ENDS.values(), ids=ENDS)
def test_pods_that_are_gone_fire_at_once(series, tmp_path):
    evaluate(tmp_path, GROUPS, series, minutes_of("OnnxserveUnavailable", 20, range(17, 20)))


def test_a_start_that_does_not_end_fires(tmp_path):
    series = {AVAILABLE: history((0, 30)), WANTED: history((0, 5), (1, 25)), UP % "p": history(("stale", 5), (0, 25))}
    evaluate(tmp_path, GROUPS, series, minutes_of("OnnxserveUnavailable", 30, range(17, 30)))
    evaluate(tmp_path, GROUPS, series, minutes_of("OnnxserveDown", 30, range(17, 30)))


@pytest.mark.parametrize(("job", "fires"), [("onnxserve", range(7, 60)), ("another", ())])
def test_a_pod_that_crashes_again_and_again_fires_once(job, fires, tmp_path):
    """At once, then after a pause of five minutes each time, as the kubelet has it."""
    lives = ["0 15 30 stale"] + ["5 20 35" + " stale" * 20] * 12
    series = {f'process_uptime_seconds{{job="{job}",{POD}}}': " ".join(lives)}
    evaluate(tmp_path, GROUPS, series, minutes_of("OnnxserveRestarting", 60, fires))


def model(name, *, active, run, **codes):
    """Series of a model: requests in flight, the share of its time for which its executor runs, requests/s by code."""
    labels = f'{POD},model="{name}",version="1"'
    values = {
        f"onnxserve_rows_active{{{labels}}}": f"{active}+0x40",
        f"onnxserve_executors{{{labels}}}": "1+0x40",
        f"onnxserve_requests_active{{{labels}}}": f"{active}+0x40",
        f"onnxserve_batch_compute_duration_seconds_sum{{{labels}}}": f"0+{run * STEP}x40",
    }
    for code, rate in codes.items():
        error = "" if code == "OK" else "REASON"
        each = f'{labels},rpc_method="x",rpc_response_status_code="{code}",error_type="{error}"'
        values[f"onnxserve_requests_total{{{each}}}"] = f"0+{rate * STEP}x40"
    return values


def taking(name, seconds):
    """The series of a model's rows, which wait and run for so many seconds per second."""
    return {f'onnxserve_rows_time_seconds_total{{{POD},model="{name}",version="1"}}': f"0+{seconds * STEP}x40"}


def load_of(series, tmp_path, load):
    evaluate(tmp_path, GROUPS, series, [(20, "sum(pod:onnxserve_load:ratio)", load)])


def test_a_model_that_serves_nobody_does_not_hide_the_demand_of_another(tmp_path):
    good = model("good", active=4, run=1, OK=10, RESOURCE_EXHAUSTED=20) | taking("good", 4)
    load_of(good | model("bad", active=1, run=0.1, DEADLINE_EXCEEDED=1), tmp_path, 3)


def test_rows_are_counted_by_the_time_for_which_they_are_there(tmp_path):
    load_of(model("m", active=2, run=0.3, OK=1000) | taking("m", 4), tmp_path, 0.5)


def test_where_nobody_is_served_those_that_wait_are_counted(tmp_path):
    others = model("other", active=0, run=0.1, OK=10) | taking("other", 2)
    load_of(others | model("stuck", active=4, run=0), tmp_path, 0.75)


def test_a_pod_that_serves_all_that_comes_is_at_most_full(tmp_path):
    load_of(model("m", active=50, run=0.3, OK=1000) | taking("m", 50), tmp_path, 1)


def trigger(name):
    triggers = manifest("components/keda/scaledobject.yaml")["spec"]["triggers"]
    return next(one["metadata"] for one in triggers if one["name"] == name)


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ({}, 0),
        ({f"onnxserve_streams_active{{{POD}}}": "3+0x40"}, 3),
        (model("m", active=0, run=0, OK=0.2), 0.2),
        (model("m", active=0, run=0, OK=0.2) | {f"onnxserve_streams_active{{{POD}}}": "3+0x40"}, 3.2),
    ],
)
def test_one_pod_is_kept_while_anybody_asks_it_for_anything(series, value, tmp_path):
    in_use = trigger("in_use")
    evaluate(tmp_path, GROUPS, series, [(30, in_use["query"], value)])
    assert math.ceil(100 * 10_000 / float(in_use["threshold"])) == 1  # a hundred pods' worth of requests a second


def test_callers_that_find_no_server_are_counted(tmp_path):
    labels = 'onnxserve_model="m",rpc_method="onnxserve.v1.InferenceService/Predict"'
    series = {f'onnxserve_client_requests_total{{pod="{pod}",{labels}}}': "0+3x40" for pod in ("a", "b")}
    evaluate(tmp_path, GROUPS, series, [(30, trigger("calls")["query"], 0.4)])
    evaluate(tmp_path, GROUPS, {}, [(30, trigger("calls")["query"], None)])  # which KEDA takes for 0
