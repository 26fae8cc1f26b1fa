"""Alerts fire while something is wrong and clear when it is mended, and no panel is empty, in a real Prometheus.

The faults are real ones, of real servers; time runs thirty times as fast.
"""

import contextlib
import json
import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from support import promtool, zoo
from support.cluster import MANIFESTS, ROOT
from support.promtool import STEP
from support.scraping import needs_prometheus
from support.staging import GROUPS, Patient, calling, firing, predict, watched
from support.timelapse import faster, faster_rules
from support.waiting import until

FASTER = 30
MODELS = {name: zoo.slow() for name in ("tiny", "full", "late")}
MODELS |= {"gather": zoo.gather(), "parse": zoo.parse(), "double": zoo.double(), "recurrent": zoo.recurrent()}
CONFIGS = {
    "tiny": "batching: {enabled: false, max_queue_rows: 2}\n",
    "full": "batching: {enabled: false, max_queue_rows: 20}\n",
    "late": "batching: {enabled: false}\n",
    "recurrent": "state: auto\n",
}
# What fires, and of what: (alert, namespace, pod, model).
FAULTS = {
    ("OnnxserveErrors", "onnxserve", "", "parse"),
    ("OnnxserveWastedCompute", "onnxserve", "", "gather"),
    ("OnnxserveWastedCompute", "onnxserve", "", "parse"),
    ("OnnxserveRefusing", "onnxserve", "", "tiny"),
    ("OnnxserveQueueNearlyFull", "onnxserve", "steady", "full"),
    ("OnnxserveSlow", "onnxserve", "", "full"),
    ("OnnxserveDeadlines", "onnxserve", "", "late"),
    ("OnnxserveWastedCompute", "onnxserve", "", "late"),
}
FAULTS_OF_A_POD = {
    ("OnnxserveModelNotLoaded", "alone", "broken", "damaged"),
    ("OnnxserveUnavailable", "alone", "", ""),
    ("OnnxserveDown", "alone", "broken", ""),
    ("OnnxserveRestarting", "alone", "broken", ""),
}
MAY_FIRE = {  # what overload brings along, as fast as this machine is
    ("OnnxserveQueueNearlyFull", "onnxserve", "steady", "tiny"),
    ("OnnxserveSlow", "onnxserve", "", "tiny"),
}
# Series of faults that cannot be had here, while there is a fault and after it, each for so many steps.
STEPS = 80
OF_A_POD = '{namespace="onnxserve",pod="p"}'
OF_KUBERNETES = '{namespace="onnxserve",deployment="onnxserve"}'
OF_A_SCALER = '{namespace="onnxserve",horizontalpodautoscaler="keda-hpa-onnxserve"}'
FROM_SERIES = {
    # No server here can be given a memory limit, or a CPU quota, of its own.
    "OnnxserveMemory": {
        f"process_memory_usage_bytes{OF_A_POD}": (95, 85),
        f"onnxserve_memory_limit_bytes{OF_A_POD}": (100, 100),
    },
    "OnnxserveThrottled": {f"onnxserve_cpu_throttled_seconds_total{OF_A_POD}": ("0.2 a second", "0 a second")},
    # It is over once the model is loaded again, in another process.
    "OnnxserveRowsDependent": {f'onnxserve_spot_checks_total{{model="m",result="dependent",{OF_A_POD[1:]}': (1, 0)},
    # These are kube-state-metrics'. Afterwards, nothing is ready, but KEDA wants nothing either.
    "OnnxserveUnavailable": {
        f"kube_deployment_status_replicas_available{OF_KUBERNETES}": (0, 0),
        f"kube_deployment_spec_replicas{OF_KUBERNETES}": (2, 0),
    },
    "OnnxserveScaledOut": {
        f"kube_horizontalpodautoscaler_status_desired_replicas{OF_A_SCALER}": (8, 7),
        f"kube_horizontalpodautoscaler_spec_max_replicas{OF_A_SCALER}": (8, 8),
    },
}
# Panels that may be empty.
EMPTY = {
    "Power of each model": "few machines let their energy be read",
    "CPU throttling": "only control groups of version 2 count it",
}


ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
DASHBOARD = json.loads((MANIFESTS / "overlays/monitoring/dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
FULL = [title for title in PANELS if title not in EMPTY]


@dataclass
class Story:
    """What Prometheus saw.

    Attributes:
        shown: expressions of the dashboard that gave numbers under load.
        fired: alerts that fired at some time.
        left: those that still fire though nothing is wrong any more.
    """

    shown: set = field(default_factory=set)
    fired: set = field(default_factory=set)
    left: set = field(default_factory=set)


@pytest.fixture(scope="module")
def story(serving, tmp_path_factory):
    """One server whose models are called wrongly, one that is broken, dies and comes back; then all is well."""
    folder, story = tmp_path_factory.mktemp("monitoring"), Story()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(zoo.write(folder / "models", MODELS, CONFIGS), http_port=0))
        patient = stack.enter_context(contextlib.closing(Patient(folder)))
        pods = {
            ("onnxserve", "steady"): f"127.0.0.1:{server.app.http_port}",
            ("alone", "broken"): f"127.0.0.1:{patient.http_port}",
        }
        query = stack.enter_context(watched(folder, pods, FASTER))
        stack.enter_context(healthy(server))
        with faults(server):
            with contextlib.suppress(AssertionError):  # the tests name what did not fire
                suffer(patient, query)
                until(lambda: firing(query) >= FAULTS, 60, every=0.2)
            with contextlib.suppress(AssertionError):
                until(lambda: look(story, query), 60, every=0.2)
        with contextlib.suppress(AssertionError):
            until(lambda: not firing(query), 150, every=0.2)
        story.left = firing(query)
        story.fired = firing(query, 'max_over_time(ALERTS{alertstate="firing"}[5h])')
    return story


def look(story, query):
    """Whether all parts of panels have shown a number; one may have none at times: a busy server is scraped late."""
    wanted = {target["expr"] for title in FULL for target in PANELS[title]["targets"]}
    for expression in wanted - story.shown:
        if any(math.isfinite(value) for _, value in query(expression)):
            story.shown.add(expression)
    return wanted == story.shown


@contextlib.contextmanager
def healthy(server):
    """Calls that nothing is wrong with, of models with faults, too; and a sequence, which is a stream."""
    row = np.ones((1, 1), np.float32)
    with contextlib.ExitStack() as stack:
        stack.enter_context(calling(server.address, predict("double", x=np.ones((1, 3), np.float32)), callers=2))
        stack.enter_context(calling(server.address, predict("gather", id=np.ones((1, 1), np.int64)), pause=0.1))
        for model in ("tiny", "full", "late"):
            stack.enter_context(calling(server.address, predict(model, x=row), pause=0.1))
        sequence = stack.enter_context(server.client.sequence("recurrent"))
        sequence.step({"x": np.ones((1, 2), np.float32)})
        yield


@contextlib.contextmanager
def faults(server):
    """Calls that models cannot answer, cannot answer in time, or are too many."""

    def steps(count):
        return np.full((1, 1), count, np.float32)

    with contextlib.ExitStack() as stack:
        stack.enter_context(calling(server.address, predict("gather", id=np.full((1, 1), 99)), callers=2))
        unreadable = predict("parse", x=np.array(["not a number"], object))
        stack.enter_context(calling(server.address, unreadable, pause=0.1))
        stack.enter_context(calling(server.address, predict("tiny", x=steps(6)), callers=8, pause=0.01))
        stack.enter_context(calling(server.address, predict("full", x=steps(200)), callers=19, pause=0))
        stack.enter_context(calling(server.address, predict("late", x=steps(2000)), pause=0.2, timeout=0.1))
        yield


def suffer(patient, query):
    """A pod serves without a model, dies, comes back with all its models, and dies twice more."""

    def fires(*names):
        return set(names) <= {name for name, _, pod, _ in firing(query) if pod in ("broken", "")}

    def up(value):
        return query(f'up{{pod="broken"}} == {value}')

    until(lambda: fires("OnnxserveModelNotLoaded"), 60, every=0.2)
    patient.kill()
    until(lambda: fires("OnnxserveDown", "OnnxserveUnavailable"), 60, every=0.2)
    patient.mend()
    for _ in range(5):
        patient.start()
        until(lambda: up(1), 60, every=0.2)
        if fires("OnnxserveRestarting"):
            return
        patient.kill()
        until(lambda: up(0), 30, every=0.2)
    patient.start()


@needs_prometheus
@pytest.mark.timeout(400)  # the first one waits for the story
class TestStory:
    @pytest.mark.parametrize("alert", sorted({alert for alert, *_ in FAULTS | FAULTS_OF_A_POD}))
    def test_the_alert_fires_of_what_is_wrong_and_of_nothing_else(self, story, alert):
        wanted = {fault for fault in FAULTS | FAULTS_OF_A_POD if fault[0] == alert}
        assert {one for one in story.fired - MAY_FIRE if one[0] == alert} == wanted

    def test_no_other_alert_fires(self, story):
        assert story.fired <= FAULTS | FAULTS_OF_A_POD | MAY_FIRE

    def test_every_alert_clears_when_nothing_is_wrong_any_more(self, story):
        assert story.fired
        assert story.left == set()

    @pytest.mark.parametrize("title", FULL)
    def test_no_part_of_the_panel_is_empty(self, story, title):
        assert {target["expr"] for target in PANELS[title]["targets"]} <= story.shown


def test_every_alert_is_made_to_fire():
    assert {alert for alert, *_ in FAULTS | FAULTS_OF_A_POD} | set(FROM_SERIES) == set(ALERTS)


@needs_prometheus
@pytest.mark.parametrize("factor", [1, FASTER])
@pytest.mark.parametrize("alert", FROM_SERIES)
def test_the_alert_fires_and_clears_by_its_series(alert, factor, tmp_path):
    """At both speeds, so that what is shown of the fast rules above holds for those of production."""
    step = STEP / factor

    def series(bad, good):
        if isinstance(bad, str):
            more = [float(each.split()[0]) * step for each in (bad, good)]
            return f"0+{more[0]}x{STEPS} {more[0] * (STEPS + 1)}+{more[1]}x{STEPS}"
        return f"{bad}+0x{STEPS} {good}+0x{STEPS}"

    inputs = {name: series(*values) for name, values in FROM_SERIES[alert].items()}
    moments = [(at, promtool.firing(alert), times) for at, times in ((1, 0), (STEPS, 1), (2 * STEPS, 0))]
    promtool.evaluate(tmp_path, faster_rules(GROUPS, factor), inputs, moments, step)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("rate(a[5m]) > 0.1", "rate(a[10000ms]) > 0.1"),
        ("max_over_time(a[1h30m:15s] offset 2m)", "max_over_time(a[180000ms:500ms] offset 4000ms)"),
        ('a{b=~"[5m]x|2m"} + 5', 'a{b=~"[5m]x|2m"} + 5'),
        ("sum by (a) (rate(a[$__rate_interval]))", "sum by (a) (rate(a[$__rate_interval]))"),
    ],
)
def test_ranges_and_offsets_are_what_runs_faster(expression, wanted):
    assert faster(expression, 30) == wanted


def test_rules_keep_all_but_their_times():
    rules = [{"name": "g", "interval": "15s", "rules": [{"alert": "A", "expr": "a[1m] > 2", "for": "1h"}]}]
    assert faster_rules(rules, 30) == [
        {"name": "g", "interval": "500ms", "rules": [{"alert": "A", "expr": "a[2000ms] > 2", "for": "120000ms"}]}
    ]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_tells_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert):
    rule = ALERTS[alert]
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"https://docs.example.com/runbook.html#{alert.lower()}"


def test_the_runbook_has_a_section_on_each_alert_and_on_no_other():
    section = (ROOT / "docs/runbook.md").read_text().split("## When an alert fires")[1].split("\n## ")[0]
    shown = re.findall(r"^### (\w+)\n\n\*\*(Critical|Warning)\.\*\*", section, re.MULTILINE)
    assert shown == [(name, rule["labels"]["severity"].capitalize()) for name, rule in ALERTS.items()]


def test_the_panels_that_the_runbook_names_are_there():
    section = (ROOT / "docs/runbook.md").read_text().split("## When an alert fires")[1]
    named = {panel for line in re.findall(r"the panels? (.*)", section) for panel in re.findall(r"\*([^*]+)\*", line)}
    assert named
    assert named <= PANELS.keys()


def test_panels_have_a_place_of_their_own_and_variables_that_there_are():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__all"} <= variables
    taken = set()
    for panel in PANELS.values():
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "timeseries"
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in PANELS.values()}) == len(DASHBOARD["panels"])
