"""The manifests of deploy/k8s as kustomize renders them, and what holds between the objects of one installation."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "deploy/k8s"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
# What is applied together. The adapter's values are none of Kubernetes' objects, but name the same things.
INSTALLATIONS = {
    "cpu": ("cpu", "models-pvc", "monitoring"),
    "gpu": ("gpu", "models-pvc", "monitoring"),
    "keda": ("keda", "models-pvc", "monitoring"),
    "models-s3": ("models-s3", "monitoring"),
}

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="kubectl is missing; https://kubernetes.io/docs/tasks/tools tells how to install it",
)


@cache
def text_of(overlay):
    """What `kubectl kustomize` prints."""
    command = ["kubectl", "kustomize", str(MANIFESTS / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def manifest(path):
    """One file of one object, as it is written."""
    return yaml.safe_load((MANIFESTS / path).read_text())


def render(overlay):
    """The objects of an overlay, as fresh copies."""
    return list(yaml.safe_load_all(text_of(overlay)))


def installation(name):
    """The objects that are applied together, and the adapter's values as an object more."""
    adapter = {"kind": "AdapterValues", "metadata": {"name": "prometheus-adapter"}} | manifest(
        "prometheus-adapter.yaml"
    )
    return [one for overlay in INSTALLATIONS[name] for one in render(overlay)] + [adapter]


def named(one):
    """Kind and name without the hash that kustomize appends."""
    return f"{one['kind']}/{re.sub(r'-[a-z0-9]{10}$', '', one['metadata']['name'])}"


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def pods(objects):
    """(labels, pod spec) of each pod that there will be."""
    templates = [one["spec"]["template"] for one in of_kind(objects, "Deployment")] + of_kind(objects, "Pod")
    return [(one["metadata"]["labels"], one["spec"]) for one in templates]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def dangling(objects):
    """Yield what refers to something that is not there."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in of_kind(objects, "Service"):
        wanted = {port["targetPort"] for port in one["spec"]["ports"]}
        yield from _dangling_selector(one, one["spec"]["selector"], wanted, objects)
    for one in of_kind(objects, "PodDisruptionBudget", "Deployment"):
        yield from _dangling_selector(one, one["spec"]["selector"]["matchLabels"], set(), objects)
    for one in of_kind(objects, "NetworkPolicy"):
        wanted = {port["port"] for rule in one["spec"].get("ingress", ()) for port in rule["ports"]}
        yield from _dangling_selector(one, one["spec"]["podSelector"]["matchLabels"], wanted, objects)
    for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = one["spec"]["scaleTargetRef"]
        if (target.get("kind", "Deployment"), target["name"]) not in names:
            yield f"{named(one)}: nothing to scale"
    for one in of_kind(objects, "ServiceMonitor"):
        services = list(monitored(one, objects))
        if len(services) != 1:
            yield f"{named(one)}: finds {len(services)} Services with its port, and not one"
    for labels, pod in pods(objects):
        yield from _dangling_of_pod(labels, pod, names)


def _dangling_selector(one, selector, ports, objects):
    found = [pod for labels, pod in pods(objects) if selector.items() <= labels.items()]
    if len(found) != 1:
        yield f"{named(one)}: its selector finds {len(found)} kinds of pods, and not one"
    elif not ports <= {port["name"] for container in containers(found[0]) for port in container.get("ports", ())}:
        yield f"{named(one)}: the pods do not have all of {ports}"


def monitored(monitor, objects):
    """Yield the Services that a ServiceMonitor finds."""
    (endpoint,) = monitor["spec"]["endpoints"]
    for service in of_kind(objects, "Service"):
        labelled = monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        if labelled and any(port["name"] == endpoint["port"] for port in service["spec"]["ports"]):
            yield service


def _dangling_of_pod(labels, pod, names):
    account = pod.get("serviceAccountName")
    if account is not None and ("ServiceAccount", account) not in names:
        yield f"no ServiceAccount {account}"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    if mounted != set(volumes):
        yield f"volumes {set(volumes)}, mounted {mounted}"
    wanted = {("ConfigMap", volume["configMap"]["name"]) for volume in volumes.values() if "configMap" in volume}
    wanted |= {
        ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        for volume in volumes.values()
        if "persistentVolumeClaim" in volume
    }
    wanted |= {
        ("ConfigMap", source["configMapRef"]["name"])
        for container in containers(pod)
        for source in container.get("envFrom", ())
    }
    for kind, name in wanted - names:
        yield f"no {kind} {name}"
    for spread in pod.get("topologySpreadConstraints", ()):
        if not spread["labelSelector"]["matchLabels"].items() <= labels.items():
            yield "the pods are not spread: the selector does not find them"
