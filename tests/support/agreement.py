"""Whether the manifests say what the program is: flags, ports, services, metrics, paths and times."""

import json
import re
import tempfile
from hashlib import sha256
from pathlib import Path

from typer.testing import CliRunner

from onnxserve._cli.app import app as command_line
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import FILE_NAME, read_config
from onnxserve_server.runtime.providers import CUDA, parse_providers
from support.cluster import ROOT, containers, dangling, monitored, named, of_kind
from support.markdown import anchors
from support.promql import TEXTS, strangers, unknown_in_text

_ANYWHERE = {"0.0.0.0", "::"}
_GPU = "nvidia.com/gpu"
_MARGIN = 60  # seconds; a pod that hangs for longer than it must holds up a node's drain
_EXAMPLES = ROOT / "examples/models"


def disagreements(objects, known):
    """Yield each place where an installation is not what the program is, or refers to what is not there."""
    yield from dangling(objects)
    for one in of_kind(objects, "Deployment"):
        yield from (f"{named(one)}: {fault}" for fault in _of_deployment(one, objects, known))
    for one in of_kind(objects, "Pod"):
        yield from _of_image(one["spec"]["containers"][0], known)
    yield from _of_metrics(objects, known)
    for one in of_kind(objects, "ServiceMonitor"):
        for endpoint in one["spec"]["endpoints"]:
            if endpoint["path"] not in known.paths:
                yield f"{named(one)}: no path {endpoint['path']}"
    for one in of_kind(objects, "ConfigMap"):
        if "SHA256SUMS" in one["data"]:
            yield from (f"{named(one)}: {fault}" for fault in _of_list(one["data"]))


def _of_deployment(one, objects, known):
    pod = one["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    yield from _of_image(server, known)
    try:
        settings = _effective(objects, pod, server)
    except ValueError as error:
        yield str(error)
        return
    yield from _of_ports(objects, server, settings, known)
    yield from _of_times(one, pod, server, settings, known)
    yield from _of_resources(server, settings, known)
    for container in containers(pod):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        if mounts["models"] != settings["models"] or mounts["tmp"] != known.temporary:
            yield f"{container['name']} has its mounts at {mounts}"
        for variable in container.get("env", ()):
            if variable["value"].startswith("/") and not any(map(variable["value"].startswith, mounts.values())):
                yield f"{variable['name']} leads to no mount"
    for container in pod.get("initContainers", ()):
        yield from _of_fetching(objects, pod, container, settings)


def _of_image(container, known):
    tag = f"{known.version}-{'gpu' if _GPU in container['resources']['limits'] else 'cpu'}"
    if container["image"] != f"onnxserve:{tag}" or tag.rpartition("-")[2] not in known.variants:
        yield f"the image is {container['image']}, and not onnxserve:{tag}"


def _of_ports(objects, server, settings, known):
    wanted = {"grpc": settings["port"], "http": settings["http_port"]}
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    if ports != wanted or settings["host"] not in _ANYWHERE:
        yield f"its ports are {ports}, the server's {wanted} on {settings['host']}"
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            if port["port"] != wanted.get(port["targetPort"]):
                yield f"{named(service)} has {port['targetPort']} at {port['port']}"
    services = {"startupProbe": known.inference, "readinessProbe": known.inference, "livenessProbe": known.process}
    for probe, service in services.items():
        if server[probe]["grpc"] != {"port": settings["port"], "service": service}:
            yield f"{probe} asks for {server[probe]['grpc']}"


def _of_times(one, pod, server, settings, known):
    loading = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    if one["spec"]["progressDeadlineSeconds"] <= loading:
        yield "a rollout is given up while models may load"
    grace = pod["terminationGracePeriodSeconds"]
    stopping = settings["drain_delay"] + settings["drain_timeout"] + known.ending
    if settings["drain_delay"] <= 0 or not stopping < grace < stopping + _MARGIN:
        yield f"a grace of {grace} s; stopping takes up to {stopping} s"


def _of_resources(server, settings, known):
    requests, limits = server["resources"]["requests"], server["resources"]["limits"]
    if requests != limits or not limits["cpu"].isdecimal():
        yield f"threads follow from whole CPUs of its own, not from {requests} to {limits}"
    if (_GPU in limits) != (CUDA in settings["providers"]):
        yield f"it has {limits} for {settings['providers']}"
    unset = parse_providers([CUDA])[CUDA]
    for option in set(settings["providers"].get(CUDA, {})) - set(unset):
        if option not in known.options:
            yield f"no option {option}"


def _of_fetching(objects, pod, container, settings):
    """Yield what the script of the init container would not find."""
    files = dict(_mounted(objects, pod, container))
    interpreter, script, folder = container["command"]
    if interpreter != "sh" or script not in files or folder != settings["models"]:
        yield f"there is nothing to run: {container['command']}"
        return
    data = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    for source in container["envFrom"]:
        given |= data[source["configMapRef"]["name"]]
    asked = set(re.findall(r"\$\{?(MODELS_\w+)", files[script]))
    if not asked <= set(given) or f"{given['MODELS_LIST']}/SHA256SUMS" not in files:
        yield f"the script finds no list, or not all of {asked}"
    elif f"RCLONE_CONFIG_{given['MODELS_SOURCE'].partition(':')[0].upper()}_TYPE" not in given:
        yield f"rclone does not know {given['MODELS_SOURCE']}"


def _of_metrics(objects, known):
    exposed = {rule["name"]["as"] for one in of_kind(objects, "AdapterValues") for rule in one["rules"]["custom"]}
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in one["spec"]["metrics"]:
            if metric["pods"]["metric"]["name"] not in exposed:
                yield f"{named(one)}: no metric {metric['pods']['metric']['name']}"
    nodes = [(one, node) for one in objects for node in _nodes(one)]
    recorded = {node["record"] for _, node in nodes if isinstance(node.get("record"), str)}
    values = _values(objects, {node["alert"] for _, node in nodes if "alert" in node})
    for one, node in nodes:
        for expression in _expressions(node):
            for word in strangers(expression, known, values, recorded):
                yield f"{named(one)}: {word!r} in {expression!r}"
        for text in (node[field] for field in TEXTS if isinstance(node.get(field), str)):
            yield from (f"{named(one)}: {word!r} in {text!r}" for word in unknown_in_text(text, known))
        if "runbook_url" in node and not _leads_somewhere(node["runbook_url"]):
            yield f"{named(one)}: no {node['runbook_url']}"


def _values(objects, alerts):
    """What labels that come from Kubernetes and Prometheus have for values."""
    (namespace,) = {one["metadata"]["namespace"] for one in objects if "namespace" in one["metadata"]}
    scalers = {one["metadata"]["name"] for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")}
    return {
        "namespace": {namespace},
        "job": {
            service["metadata"]["name"]
            for monitor in of_kind(objects, "ServiceMonitor")
            for service in monitored(monitor, objects)
        },
        "deployment": {one["metadata"]["name"] for one in of_kind(objects, "Deployment")},
        "horizontalpodautoscaler": scalers | {f"keda-hpa-{name}" for name in scalers},
        "alertname": alerts,
    }


def _leads_somewhere(url):
    """Whether a section of the documentation is at that address, wherever the site is published."""
    page, _, anchor = url.removeprefix("https://docs.example.com/").partition("#")
    source = (ROOT / "docs" / page).with_suffix(".md")
    return page.endswith(".html") and source.is_file() and anchor in anchors(source.read_text())


def _of_list(data):
    """Yield what of the list of models is not the example's, and what model.yaml does not know."""
    sums = {line[66:]: line[:64] for line in data["SHA256SUMS"].splitlines()}
    for path, digest in sums.items():
        if not (_EXAMPLES / path).is_file() or sha256((_EXAMPLES / path).read_bytes()).hexdigest() != digest:
            yield f"{path} is not the example"
    for name in set(data) - {"SHA256SUMS"}:
        example = _EXAMPLES / name.removesuffix(".yaml") / FILE_NAME
        if not example.is_file() or data[name] != example.read_text():
            yield f"{name} is not the example's {FILE_NAME}"
            continue
        try:
            read_config(example, {})
        except ConfigurationError as error:
            yield str(error)


def _effective(objects, pod, container):
    """The settings that the real command line makes of arguments, environment and mounted files.

    Raises:
        ValueError: it makes none of them.
    """
    arguments = list(container["args"])
    with tempfile.TemporaryDirectory() as root:
        for path, text in _mounted(objects, pod, container):
            there = Path(root + path)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(text)
            arguments = [re.sub(rf"={re.escape(path)}$", f"={there}", argument) for argument in arguments]
        given = {variable["name"]: variable["value"] for variable in container.get("env", ())}
        shown = CliRunner().invoke(command_line, [*arguments, "--show-config"], env=given)
    if shown.exit_code:
        raise ValueError(f"{container['args']}: {shown.output}")
    return json.loads(shown.stdout)


def _mounted(objects, pod, container):
    """(path, text) of the files that ConfigMaps put into a container."""
    data = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    sources = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    for mount in container["volumeMounts"]:
        for key, text in data.get(sources.get(mount["name"]), {}).items():
            yield f"{mount['mountPath']}/{key}", text


def _expressions(node):
    yield from (node[key] for key in ("expr", "metricsQuery", "seriesQuery") if isinstance(node.get(key), str))
    if "serverAddress" in node:
        yield node["query"]
    elif node.get("type") == "query" and "query" in node:  # a dashboard's variable
        yield node["query"] if isinstance(node["query"], str) else node["query"]["query"]


def _nodes(value):
    """Every mapping in an object, those in JSON texts of its data too."""
    if isinstance(value, dict):
        yield value
        for key, part in value.items():
            yield from _nodes(json.loads(part) if key.endswith(".json") else part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)
