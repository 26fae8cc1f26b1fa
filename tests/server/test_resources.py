"""The limits of a container are found, whichever way its cgroups are laid out."""

import os

import pytest

from onnxserve_server.runtime import resources as module
from onnxserve_server.runtime.resources import Resources, resources
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.system import System

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 CPUs and 16 GiB."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * GIB // 4096}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)


@pytest.fixture
def own(machine, monkeypatch):
    """Say what /proc/self/cgroup has."""
    lines = ["0::/"]
    original = module._lines
    monkeypatch.setattr(module, "_lines", lambda path: lines if str(path) == "/proc/self/cgroup" else original(path))

    def say(*content):
        lines[:] = content

    return say


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


LIMITED = (1.5, "cgroup CPU quota", 2 * GIB, "cgroup memory limit")
FREE = (8, "CPU affinity", 16 * GIB, "machine")


@pytest.mark.parametrize(
    ("own_groups", "files", "expected"),
    [
        ([], {}, FREE),
        (["0::/"], {"cpu.max": "150000 100000", "memory.max": str(2 * GIB)}, LIMITED),
        (["0::/"], {"cpu.max": "max 100000", "memory.max": "max"}, FREE),
        (["0::/pod/one"], {"pod/one/cpu.max": "150000 100000", "pod/one/memory.max": str(2 * GIB)}, LIMITED),
        (
            ["0::/pod/one"],
            {
                "pod/one/cpu.max": "max 100000",
                "pod/one/memory.max": "max",
                "cpu.max": "150000 100000",
                "memory.max": str(2 * GIB),
            },
            LIMITED,
        ),
        (
            ["4:memory:/", "3:cpu,cpuacct:/"],
            {
                "cpu/cpu.cfs_quota_us": "150000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(2 * GIB),
            },
            LIMITED,
        ),
        (
            ["4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc"],
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "150000",
                "cpu/docker/abc/cpu.cfs_period_us": "100000",
                "memory/docker/abc/memory.limit_in_bytes": str(2 * GIB),
            },
            LIMITED,
        ),
        (
            ["4:memory:/"],
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            FREE,
        ),
        (["0::/"], {"cpu.max": "1600000 100000", "memory.max": str(64 * GIB)}, FREE),
        (["0::/"], {"cpu.max": "", "memory.max": ""}, FREE),
    ],
    ids=[
        "no cgroups",
        "v2",
        "v2 without limits",
        "v2 nested",
        "v2 limited further up",
        "v1",
        "v1 nested",
        "v1 without limits",
        "more than there is",
        "empty files",
    ],
)
def test_limits_are_those_of_the_cgroup_or_else_the_machines(own, tmp_path, own_groups, files, expected):
    own(*own_groups)
    found = resources(tree(tmp_path, files))
    assert (found.cpus, found.cpus_from, found.memory_bytes, found.memory_from) == expected


def test_the_smallest_limit_on_the_way_up_holds(own, tmp_path):
    own("0::/pod/one")
    files = {
        "pod/one/cpu.max": "400000 100000",
        "pod/one/memory.max": str(8 * GIB),
        "pod/cpu.max": "150000 100000",
        "pod/memory.max": str(2 * GIB),
    }
    found = resources(tree(tmp_path, files))
    assert (found.cpus, found.memory_bytes) == (1.5, 2 * GIB)


@pytest.mark.parametrize(
    ("own_groups", "folder", "name"),
    [
        (["0::/pod/one"], "pod", "memory.current"),
        (["3:cpu,cpuacct:/pod/two", "4:memory:/pod/one"], "memory/pod", "memory.usage_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_what_is_used_is_that_of_the_own_group_not_of_others_nor_of_all(own, tmp_path, own_groups, folder, name):
    own(*own_groups)
    root = tree(tmp_path, {f"{folder}/one/{name}": "5", f"{folder}/two/{name}": "6", f"{folder}/{name}": "11"})
    found = {metric.instrument: metric.points for metric in System(root).collect()}
    assert found[catalogue.CONTAINER_MEMORY] == [((), 5)]


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2), (7.5, 7)])
def test_threads_are_the_whole_cpus_and_at_least_one(cpus, threads):
    assert Resources(cpus=cpus, cpus_from="", memory_bytes=1, memory_from="").threads == threads


def test_this_machine_has_some():
    found = resources()
    assert 0 < found.cpus <= len(os.sched_getaffinity(0))
    assert found.memory_bytes > 2**27
