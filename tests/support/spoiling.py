"""Changes one name in a manifest at a time, and tells which fields have names that are not the program's."""

import json
import re

from support.cluster import named
from support.promql import NAMES, TEXTS

# What Kubernetes, its operators and the operator of the cluster call as they like: nothing of the program.
_OWN_FIELDS = frozenset(
    """
    accessModes activeDeadlineSeconds alert allowPrivilegeEscalation appProtocol automountServiceAccountToken
    averageValue clusterIP cooldownPeriod drop effect enableServiceLinks failureThreshold for fsGroup
    fsGroupChangePolicy imagePullPolicy interval keep_firing_for key matchLabelKeys maxReplicaCount maxReplicas
    maxSkew maxSurge maxUnavailable memory minReplicaCount minReplicas nvidia.com/gpu nvidia.com/gpu.present operator
    periodSeconds policyTypes pollingInterval progressDeadlineSeconds protocol readOnly readOnlyRootFilesystem
    replicas resource restartPolicy runAsGroup runAsNonRoot runAsUser secretName serverAddress severity sizeLimit
    stabilizationWindowSeconds storage terminationGracePeriodSeconds terminationMessagePolicy threshold timeoutSeconds
    topologyKey type unhealthyPodEvictionPolicy whenUnsatisfiable
    """.split()  # noqa: SIM905 - a list of words reads better so
)
_OWN_PLACES = re.compile(
    "|".join(
        [
            r"\w+ (apiVersion|kind|metadata/.*)",
            r"\w+ spec/(.*/)?(matchLabels|nodeSelector)/.*",
            r"Deployment spec/template/metadata/labels/app\.kubernetes\.io/(managed-by|part-of)",
            r"(Service|ScaledObject|PrometheusRule) spec/(ports|triggers|groups)/\d+/name",
            r"HorizontalPodAutoscaler spec/(behavior/.*|scaleTargetRef/apiVersion)",
            r"ScaledObject spec/(advanced/.*|fallback/behavior)",
            r"NetworkPolicy spec/egress/.*",
            r"Deployment spec/template/spec/containers/\d+/name",
            r"Deployment spec/template/spec/(initContainers/\d+/(name|image|resources/.*)|.*/env/\d+/(name|value))",
            r"Pod spec/containers/\d+/(name|command/.*|resources/.*|volumeMounts/.*)",
            r"ConfigMap data/(fetch\.sh|MODELS_SOURCE|RCLONE_CONFIG_\w+)",
            r"ConfigMap data/dashboard\.json/(?!(.*/)?(expr|legendFormat|description)$).*",
        ]
    )
)
_EXPRESSIONS = {"expr", "query", "metricsQuery", "seriesQuery"}
_COMMENT = re.compile(r"(?m)#.*$")
_VARIABLE = re.compile(r"\[[\w:]+\]|\$\w+|<<.*?>>")  # durations too
_WORD = re.compile(r"[A-Za-z_]\w*")
_NAME_IN_TEXT = re.compile(rf"{NAMES.pattern}|(?<=labels\.)\w+|(?<={{{{)\w+")


def fields(objects):
    """Yield (number of the object, kind and name, path, value) of what may name something of the program.

    A dashboard's JSON is looked into: its fields have paths as if it were no text.
    """
    for number, one in enumerate(objects):
        for path, value in _walk(one, ()):
            field = next(str(part) for part in reversed(path) if isinstance(part, str))
            place = f"{one['kind']} {'/'.join(map(str, path))}"
            if field not in _OWN_FIELDS and not _OWN_PLACES.fullmatch(place):
                yield number, named(one), path, value


def spoiled(field, value):
    """Yield a value with one name changed at a time: a number one off, an x after a word. Comments are left alone."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    else:
        blank = _blank(_COMMENT, value)
        if field in _EXPRESSIONS:
            blank = _blank(_VARIABLE, blank)
        for word in (_NAME_IN_TEXT if field in TEXTS else _WORD).finditer(blank):
            yield f"{value[: word.end()]}x{value[word.end() :]}"


def put(one, path, value):
    """Set the value at a path of fields()."""
    key, *rest = path
    if not rest:
        one[key] = value
    elif isinstance(one[key], str):
        inner = json.loads(one[key])
        put(inner, rest, value)
        one[key] = json.dumps(inner)
    else:
        put(one[key], rest, value)


def _walk(value, path):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _walk(json.loads(part) if key.endswith(".json") else part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _walk(part, (*path, index))
    else:
        yield path, value


def _blank(pattern, text):
    return pattern.sub(lambda found: " " * len(found[0]), text)
