"""The shapes of custom resources that the manifests use, as JSON Schema: as strict as Kubernetes' own, and no wider."""

from jsonschema import Draft202012Validator

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_WHOLE = {"type": "integer", "minimum": 0}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}


def _mapping(required, **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items):
    return {"type": "array", "items": items, "minItems": 1}


_METADATA = _mapping("name namespace labels", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
_POLICIES = _list(
    _mapping("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=_WHOLE, periodSeconds=_WHOLE)
)
_SCALING = _mapping("policies", stabilizationWindowSeconds=_WHOLE, policies=_POLICIES)
_TRIGGER = _mapping(
    "type metadata",
    type={"const": "prometheus"},
    name=_TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=_mapping(
        "serverAddress query threshold",
        serverAddress={"type": "string", "pattern": r"^https?://[^/:]+(:\d+)?$"},
        query=_TEXT,
        threshold={"type": "string", "pattern": r"^[0-9.]+$"},
        activationThreshold={"type": "string", "pattern": r"^[0-9.]+$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
)
_TIMES = {"for": _DURATION, "keep_firing_for": _DURATION}
_RULE = _mapping("expr", alert=_TEXT, record=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS, **_TIMES)
_RULE["oneOf"] = [{"required": ["alert"]}, {"required": ["record"]}]

_SPECS = {
    ("keda.sh/v1alpha1", "ScaledObject"): _mapping(
        "scaleTargetRef triggers",
        scaleTargetRef=_mapping("name", name=_TEXT, kind=_TEXT, apiVersion=_TEXT),
        minReplicaCount=_WHOLE,
        maxReplicaCount=_WHOLE,
        pollingInterval=_WHOLE,
        cooldownPeriod=_WHOLE,
        fallback=_mapping(
            "failureThreshold replicas",
            failureThreshold=_WHOLE,
            replicas=_WHOLE,
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
        ),
        advanced=_mapping(
            "horizontalPodAutoscalerConfig",
            horizontalPodAutoscalerConfig=_mapping("", behavior=_mapping("", scaleUp=_SCALING, scaleDown=_SCALING)),
        ),
        triggers=_list(_TRIGGER),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _mapping(
        "selector endpoints",
        selector=_mapping("matchLabels", matchLabels=_TEXTS),
        endpoints=_list(
            _mapping("port path", port=_TEXT, path={"type": "string", "pattern": "^/"}, interval=_DURATION)
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _mapping(
        "groups", groups=_list(_mapping("name rules", name=_TEXT, interval=_DURATION, rules=_list(_RULE)))
    ),
}


def is_custom(one):
    return "." in one["apiVersion"] and not one["apiVersion"].partition("/")[0].endswith(".k8s.io")


def validate_custom(one):
    """Raise jsonschema's ValidationError, or KeyError where nothing is known of the kind."""
    schema = _mapping(
        "apiVersion kind metadata spec",
        apiVersion=_TEXT,
        kind=_TEXT,
        metadata=_METADATA,
        spec=_SPECS[one["apiVersion"], one["kind"]],
    )
    Draft202012Validator(schema).validate(one)
