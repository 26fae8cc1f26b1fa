"""What the autoscaler asks for: its own formula on the adapter's expression, of servers under loads that are known."""

import contextlib
import math
from statistics import median

import numpy as np
import pytest

from support import zoo
from support.cluster import ROOT, manifest
from support.scraping import needs_prometheus
from support.staging import GROUPS, benching, calling, on_one_cpu, overloading, predict, watched
from support.waiting import until

pytestmark = [needs_prometheus, pytest.mark.timeout(300)]

FASTER = 10  # a minute is six seconds
MOMENTS = 6  # at which Prometheus is asked; the controller asks once in 15 seconds
TOLERANCE = 0.1  # the controller's own, --horizontal-pod-autoscaler-tolerance
SHORT, LONG = (predict("slow", x=np.full((1, 1), steps, np.float32)) for steps in (8, 40))
FIGURES = ("pod:onnxserve_demand:ratio", "pod:onnxserve_rows:ratio")


def target():
    """What each pod is to have of the metric."""
    (metric,) = manifest("base/horizontalpodautoscaler.yaml")["spec"]["metrics"]
    return float(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000


def wanted(mean, pods=1):
    """How many pods the controller asks for, with so many there."""
    ratio = mean / target()
    return pods if abs(ratio - 1) <= TOLERANCE else math.ceil(pods * ratio)


def adapters():
    """The adapter's expression, as it asks for all pods of a namespace."""
    (rule,) = manifest("prometheus-adapter.yaml")["rules"]["custom"]
    return rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="onnxserve"').replace("<<.GroupBy>>", "pod")


def kedas():
    """KEDA's trigger for the load."""
    triggers = manifest("components/keda/scaledobject.yaml")["spec"]["triggers"]
    return next(trigger["metadata"] for trigger in triggers if trigger["name"] == "load")


def overloaded(times):
    return lambda address: overloading(address, SHORT, times)


LOADS = {  # by pod: model.yaml of slow, and what calls it
    "queues": ("batching: {enabled: false, max_queue_rows: 100000}\n", overloaded(3)),
    "refuses": ("batching: {enabled: false, max_queue_rows: 4}\n", overloaded(3)),
    "three-pods-worth": ("batching: {enabled: false, max_queue_rows: 100000}\n", overloaded(3 * target() * 0.95)),
    "batches": ("batching: {enabled: true}\n", lambda address: calling(address, LONG, callers=4, pause=0)),
}


@pytest.fixture(scope="module")
def seen(serving, tmp_path_factory):
    """{expression: {pod: median of some moments}} under the loads. Each server has an idle model, too."""
    folder = tmp_path_factory.mktemp("scaling")
    with contextlib.ExitStack() as stack:
        servers = {}
        for pod, (config, _) in LOADS.items():
            root = zoo.write(folder / pod, {"slow": zoo.slow(), "idle": zoo.double()}, {"slow": config})
            servers[pod] = stack.enter_context(serving(root, http_port=0))
        pods = {("onnxserve", pod): f"127.0.0.1:{server.app.http_port}" for pod, server in servers.items()}
        query = stack.enter_context(watched(folder, pods, FASTER))
        for pod, (_, load) in LOADS.items():
            stack.enter_context(load(servers[pod].address))
        a_minute_long = "min_over_time(pod:onnxserve_demand:ratio[1m]) > 0.5"
        until(lambda: len(query(a_minute_long)) == len(pods), 90, every=0.2)
        return watch(query, adapters(), *FIGURES, kedas()["query"])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same of a server with one CPU and the trained network, which more callers ask than it can answer at once."""
    folder = tmp_path_factory.mktemp("small")
    with (
        on_one_cpu(folder, ROOT / "examples/models") as (address, http_address),
        benching(address, "digits", callers=64),
        watched(folder, {("onnxserve", "small"): http_address}, FASTER) as query,
    ):
        until(lambda: query("min_over_time(pod:onnxserve_demand:ratio[1m]) > 0"), 90, every=0.2)
        return watch(query, adapters(), *FIGURES)


def watch(query, *expressions):
    """{expression: {pod: median of some moments that differ}}."""
    moments = []
    while len(moments) < MOMENTS:
        moments.append(until(lambda: another(moments, {one: by_pod(query(one)) for one in expressions}), 30, every=0.2))
    return {
        one: {pod: median(moment[one][pod] for moment in moments) for pod in moments[0][one]} for one in expressions
    }


def by_pod(answer):
    return {labels.get("pod", ""): value for labels, value in answer}


def another(moments, now):
    return now if not moments or now != moments[-1] else None


@pytest.mark.slow
@pytest.mark.parametrize("pod", ["queues", "refuses"])
def test_demand_tells_how_many_times_as_much_comes_as_a_pod_can_do(seen, pod):
    """Whether requests wait or are refused, and beside a model that idles."""
    assert seen[FIGURES[0]][pod] == pytest.approx(3, rel=0.2)
    assert seen[adapters()][pod] == pytest.approx(seen[FIGURES[0]][pod], rel=0.1)
    assert wanted(seen[adapters()][pod]) in (4, 5)  # three would have nothing to spare


@pytest.mark.slow
def test_three_pods_worth_of_requests_asks_for_three_pods(seen):
    assert wanted(seen[adapters()]["three-pods-worth"]) == 3


@pytest.mark.slow
def test_rows_in_hand_alone_would_ask_for_too_many_or_too_few(seen):
    rows = seen[FIGURES[1]]
    assert wanted(rows["queues"]) > 5
    assert wanted(rows["refuses"]) == 1


@pytest.mark.slow
def test_busy_executors_ask_for_nothing_while_batches_have_room(seen):
    assert wanted(seen[FIGURES[0]]["batches"]) > 1
    assert wanted(seen[adapters()]["batches"]) == 1


@pytest.mark.slow
def test_small_models_ask_for_more_pods_though_their_executors_have_room(small):
    """The thread that decodes and encodes is what is full."""
    assert wanted(small[FIGURES[0]]["small"]) == 1
    assert wanted(small[adapters()]["small"]) == 2


def test_the_first_rule_is_the_number_to_set():
    """The documents show a patch of this place."""
    assert GROUPS[0]["rules"][0]["record"] == "onnxserve:rows:best"
    assert "/spec/groups/0/rules/0/expr" in (ROOT / "docs/guides/kubernetes.md").read_text()


@pytest.mark.slow
def test_keda_asks_for_what_the_autoscaler_does(seen):
    assert float(kedas()["threshold"]) == target()
    assert seen[kedas()["query"]][""] == pytest.approx(sum(seen[adapters()].values()), rel=0.15)
