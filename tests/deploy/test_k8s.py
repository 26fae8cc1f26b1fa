"""The manifests: they render, are what Kubernetes takes, are safe, and agree with the program."""

import copy
import dataclasses
import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from support.agreement import disagreements
from support.cluster import (
    INSTALLATIONS,
    MANIFESTS,
    OVERLAYS,
    ROOT,
    containers,
    installation,
    needs_kubectl,
    of_kind,
    pods,
    render,
    text_of,
)
from support.crds import is_custom, validate_custom
from support.program import program
from support.spoiling import fields, put, spoiled

pytestmark = needs_kubectl

CHECKOV = ROOT / "build/checkov/bin/checkov"
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()  # of Kubernetes
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}  # of those that the restricted standard allows


@pytest.fixture(scope="module")
def known():
    return program()


def test_every_overlay_belongs_to_an_installation():
    assert set(OVERLAYS) == {overlay for overlays in INSTALLATIONS.values() for overlay in overlays}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", [*OVERLAYS, "namespace"])
def test_every_object_is_what_the_api_takes(overlay, version):
    text = (MANIFESTS / "namespace.yaml").read_text() if overlay == "namespace" else text_of(overlay)
    for one in yaml.safe_load_all(text):
        if is_custom(one):
            validate_custom(one)
        else:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_standard(overlay):
    for _, pod in pods(render(overlay)):
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) - {"name"} <= VOLUMES for volume in pod["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_overlay_that_the_documents_show_renders_and_agrees_with_the_program(tmp_path, known):
    section = (ROOT / "docs/guides/kubernetes.md").read_text()
    shown = section.split("```yaml\n")[1].split("```")[0]
    shutil.copytree(MANIFESTS, tmp_path / "deploy/k8s")
    for command in re.findall(r"^\$ ((?:mkdir|cp) .*)$", section, re.MULTILINE):
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=60)
    own = tmp_path / "deploy/k8s/overlays/own"
    shown = shown.replace("models-s3]", "models-s3, ../../components/keda]").replace("site=docs.", "site=wiki.")
    (own / "kustomization.yaml").write_text(shown)
    with (own / "settings.yaml").open("a") as settings:
        settings.write("log_level: debug\n")
    ended = subprocess.run(["kubectl", "kustomize", own], check=True, capture_output=True, text=True, timeout=60)
    objects = list(yaml.safe_load_all(ended.stdout))
    ((_, pod),) = pods(objects)
    assert pod["containers"][0]["image"].startswith("registry.example.com/onnxserve:")
    assert [container["name"] for container in pod["initContainers"]] == ["models"]
    assert "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
    kinds = {one["kind"] for one in objects}
    assert {"ScaledObject", "ServiceMonitor"} <= kinds
    assert "HorizontalPodAutoscaler" not in kinds
    assert not any("site" in one["data"] for one in of_kind(objects, "ConfigMap"))
    assert any("log_level: debug\n" in one["data"].get("settings.yaml", "") for one in of_kind(objects, "ConfigMap"))
    pod["containers"][0]["image"] = pod["containers"][0]["image"].removeprefix("registry.example.com/")
    (rules,) = of_kind(objects, "PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    for annotations in (alert["annotations"] for alert in alerts):
        assert annotations["runbook_url"].startswith("https://wiki.example.com/runbook.html#")
        annotations["runbook_url"] = annotations["runbook_url"].replace("wiki.", "docs.")
    assert alerts
    assert list(disagreements(objects, known)) == []


@pytest.mark.skipif(not (ROOT / "deploy/Dockerfile").exists(), reason="there is no deploy/Dockerfile")
def test_pods_run_as_the_user_of_the_image_and_the_image_runs_the_command():
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    users = set(re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE))
    for overlay in OVERLAYS:
        for _, pod in pods(render(overlay)):
            context = pod["securityContext"]
            assert users == {f"{context['runAsUser']}:{context['runAsGroup']}"}
    assert re.search(r'^ENTRYPOINT \[.*"onnxserve"\]$', dockerfile, re.MULTILINE)


@pytest.mark.skipif(not CHECKOV.exists(), reason="checkov is missing; make k8s-check installs it")
@pytest.mark.timeout(300)  # it takes long to start for the first time
def test_checkov_finds_nothing_that_has_no_reason(tmp_path):
    skips = {
        (f"{one['kind']}.{one['metadata']['namespace']}.{one['metadata']['name']}", check)
        for overlay in OVERLAYS
        for one in render(overlay)
        for name, text in one["metadata"].get("annotations", {}).items()
        if name.startswith("checkov.io/skip")
        for check, _, reason in [text.partition("=")]
        if reason
    }
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(text_of(overlay))
    (tmp_path / "unsafe.yaml").write_text(text_of("cpu").replace("readOnlyRootFilesystem: true", "privileged: true"))
    ended = subprocess.run(
        [CHECKOV, "--directory", tmp_path, "--framework", "kubernetes", "--skip-download", "--output", "json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    found = json.loads(ended.stdout)["results"]
    failed = [(one["file_path"], one["resource"], one["check_id"], one["check_name"]) for one in found["failed_checks"]]
    assert [one for one in failed if one[0] != "/unsafe.yaml"] == []
    assert failed, "a privileged pod is not found"
    matched = {(one["resource"], one["check_id"]) for one in found["skipped_checks"]}
    assert matched == skips, "exceptions that have no reason, or are none any more"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing; Debian's package is prometheus")
def test_prometheus_understands_every_query(tmp_path):
    queries = [trigger["metadata"]["query"] for trigger in one_of(render("keda"), "ScaledObject")["spec"]["triggers"]]
    adapter = one_of(installation("cpu"), "AdapterValues")["rules"]["custom"]
    queries += [
        rule["metricsQuery"].replace("<<.LabelMatchers>>", "").replace("<<.GroupBy>>", "pod") for rule in adapter
    ]
    rules = [{"record": "query", "expr": query} for query in queries]
    groups = [{"name": "queries", "rules": rules}, *one_of(render("monitoring"), "PrometheusRule")["spec"]["groups"]]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    command = ["promtool", "check", "rules", "--lint=none", tmp_path / "rules.yaml"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_an_installation_agrees_with_the_program(name, known):
    assert list(disagreements(installation(name), known)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("terminationGracePeriodSeconds",), 45),  # drain delay and drain timeout are 40 s
        (("terminationGracePeriodSeconds",), 600),
        (("containers", 0, "resources"), {kind: {"cpu": "2500m", "memory": "1Gi"} for kind in ("requests", "limits")}),
        (("containers", 0, "resources", "requests", "cpu"), "2"),
        (("containers", 0, "startupProbe", "failureThreshold"), 3000),
        (("containers", 0, "args", 6), "--drain-delay=0"),
        (("containers", 0, "args", 7), "--drain-timeout=60"),
    ],
)
def test_times_and_resources_that_do_not_fit_are_noticed(path, value, known):
    objects = installation("cpu")
    put(one_of(objects, "Deployment"), ("spec", "template", "spec", *path), value)
    assert notices(objects, known)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [name if name == "cpu" else pytest.param(name, marks=pytest.mark.slow) for name in INSTALLATIONS]
)
def test_of_every_name_of_the_program_a_change_in_the_manifests_is_noticed(name, known):
    objects, changed = installation(name), 0
    earlier = list(INSTALLATIONS)[: list(INSTALLATIONS).index(name)]
    tried = [place for other in earlier for _, *place in fields(installation(other))]
    for number, *place in fields(objects):
        if place in tried:
            continue
        whose, path, value = place
        for other in spoiled(path[-1], value):
            others = copy.deepcopy(objects)
            put(others[number], path, other)
            assert notices(others, known), f"{whose} {path}: {other!r} passes"
            changed += 1
    assert changed > 5


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(program())])
def test_of_every_name_of_the_program_a_change_in_the_program_is_noticed(field, known):
    other = {
        "version": "0.0.1",
        "inference": "onnxserve.v2.InferenceService",
        "process": "process",
        "ending": known.ending + 60,
        "temporary": "/elsewhere",
        "metrics": {},
    }.get(field, frozenset())
    changed = dataclasses.replace(known, **{field: other})
    assert any(notices(installation(name), changed) for name in INSTALLATIONS)


def test_of_every_metric_in_the_manifests_a_change_in_the_program_is_noticed(known):
    text = "\n".join(text_of(overlay) for overlay in OVERLAYS)
    used = [name for name in known.metrics if re.search(rf"\b{name}\b", text)]
    assert len(used) > 5
    for name in used:
        changed = dataclasses.replace(
            known, metrics={one: labels for one, labels in known.metrics.items() if one != name}
        )
        assert any(notices(installation(one), changed) for one in INSTALLATIONS), name


def one_of(objects, kind):
    (one,) = (one for one in objects if one["kind"] == kind)
    return one


def notices(objects, known):
    """Whether the check fails, be it that what it looks for is not there at all."""
    try:
        return any(True for _ in disagreements(objects, known))
    except (KeyError, ValueError, StopIteration):
        return True
