"""Which names of a Prometheus expression are neither PromQL's own, nor the program's, nor another exporter's."""

import re

_OWN = frozenset(
    """
    and or unless by without on ignoring group_left group_right offset bool inf nan sum avg min max count topk bottomk
    quantile stddev group count_values rate irate increase delta deriv predict_linear histogram_quantile clamp_min
    clamp_max clamp abs ceil floor round absent absent_over_time avg_over_time max_over_time min_over_time sum_over_time
    count_over_time quantile_over_time last_over_time label_replace label_join vector scalar time changes resets sort
    sort_desc label_values
    """.split()  # noqa: SIM905 - a list of words reads better so
)
TARGET_LABELS = {"namespace", "pod", "service", "container", "endpoint", "job", "instance", "node", "le", "alertname"}
_OTHERS_LABELS = {"alertstate", "grpc_method", "grpc_target", "grpc_status", "severity"}
_ANOTHER_EXPORTERS = re.compile(r"kube_\w+|DCGM_\w+|grpc_client_call_duration_seconds_count|up|ALERTS")
TEXTS = ("legendFormat", "summary", "description")
"""Fields of rules and dashboards that are prose with names in it."""
NAMES = re.compile(r"--[a-z][\w-]+|(?:\w+\.)?\w*_\w+")
"""What is a name in prose: flags, and words with an underscore."""
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")


def strangers(expression, program, namespace, recorded=()):
    """Yield each name that nobody knows. `recorded` are names that rules of the same file record."""
    for label, value in _MATCHER.findall(expression):
        words = [word for word in re.split(r"[|()]", value) if word and "$" not in word]
        if label == "rpc_response_status_code":
            yield from (word for word in words if word not in program.codes)
        elif label in ("rpc_method", "grpc_method"):
            yield from (word for word in words if not word.startswith(f"{program.inference}/"))
        elif label == "namespace":
            yield from (word for word in words if word != namespace)
    bare = re.sub(r'"[^"]*"|\$\w+|\$\{[^}]*\}|<<[^>]*>>|\[[^\]]*\]|\b\d[\w.]*', " ", expression)
    words = re.findall(r"[A-Za-z_:][\w:]*", bare)
    metrics = [word for word in words if word in program.metrics]
    labels = TARGET_LABELS.union(*(program.metrics[word] for word in metrics))
    others = [word for word in words if _ANOTHER_EXPORTERS.fullmatch(word)]
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
