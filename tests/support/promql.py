"""Which names of a Prometheus expression are neither PromQL's own, nor the program's, nor another exporter's."""

import re

from onnxserve_server.observing import CheckResult

_OWN = frozenset(
    """
    and or unless by without on ignoring group_left group_right offset bool Inf NaN sum avg min max count topk bottomk
    quantile stddev group count_values rate irate increase delta deriv predict_linear histogram_quantile clamp_min
    clamp_max clamp abs ceil floor round absent absent_over_time avg_over_time max_over_time min_over_time sum_over_time
    count_over_time quantile_over_time last_over_time label_replace label_join vector scalar time changes resets sort
    sort_desc label_values
    """.split()  # noqa: SIM905 - a list of words reads better so
)
TARGET_LABELS = {"namespace", "pod", "service", "container", "endpoint", "job", "instance", "node", "le", "alertname"}
_OTHERS_LABELS = {
    *("alertstate", "onnxserve_model", "severity"),
    *("deployment", "horizontalpodautoscaler"),
}
KUBERNETES = frozenset(
    """
    kube_deployment_spec_replicas kube_deployment_status_replicas_available
    kube_horizontalpodautoscaler_spec_max_replicas kube_horizontalpodautoscaler_status_desired_replicas
    """.split()  # noqa: SIM905 - a list of words reads better so
)
"""Series of kube-state-metrics."""
_SDK = "onnxserve_client_requests_total"  # of programs that call
_ANOTHER_EXPORTERS = KUBERNETES | {_SDK, "up", "ALERTS"}
TEXTS = ("legendFormat", "summary", "description")
"""Fields of rules and dashboards that are prose with names in it."""
NAMES = re.compile(r"--[a-z][\w-]+|(?:\w+\.)?\w*_\w+")
"""What is a name in prose: flags, and words with an underscore."""
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")


def strangers(expression, program, values, recorded=()):
    """Yield each name that nobody knows, and each value of a label that it never has.

    `values` are those that labels of the installation have; `recorded` are names that rules of the same file record.
    """
    known = {
        "rpc_response_status_code": program.codes,
        "outcome": {"ok", "failed"},
        "result": set(CheckResult),
        "alertstate": {"pending", "firing"},
    } | values
    for label, value in _MATCHER.findall(expression):
        for pattern in value.split("|") if label in known and "$" not in value else ():
            if pattern and not any(re.fullmatch(pattern, one) for one in known[label]):
                yield pattern
    bare = re.sub(r'"[^"]*"|\$\w+|\$\{[^}]*\}|<<[^>]*>>|\[[^\]]*\]|\b\d[\w.]*', " ", expression)
    words = re.findall(r"[A-Za-z_:][\w:]*", bare)
    metrics = [word for word in words if word in program.metrics]
    labels = TARGET_LABELS.union(*(program.metrics[word] for word in metrics))
    others = [word for word in words if word in _ANOTHER_EXPORTERS]
    if others or any(word in recorded for word in words):
        labels |= _OTHERS_LABELS | program.labels
    for word in words:
        if word not in _OWN | labels | set(metrics) | set(others) | set(recorded):
            yield word


def unknown_in_text(text, program):
    """Yield the labels in {{model}} and {{ $labels.model }} that no series has, and other names that nobody knows."""
    for word in re.findall(r"{{\s*(?:\$labels\.)?(\w+)\s*}}", text):
        if word not in program.labels | TARGET_LABELS | _OTHERS_LABELS:
            yield word
    for word in NAMES.findall(re.sub(r"{{.*?}}", " ", text)):
        if word not in program.codes | program.keys | set(program.metrics):
            yield word
