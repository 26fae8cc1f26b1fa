"""The checks of `onnxserve doctor`: is everything installed and working, and what would a server use?"""

import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.discovery import discover
from onnxserve_server.repository.files import contained
from onnxserve_server.repository.loader import Defaults, load
from onnxserve_server.runtime.prober import ProbeLimits, Prober
from onnxserve_server.runtime.resources import resources
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.services import Services
from onnxserve_server.settings import Settings

_PACKAGES = ("onnxserve", "onnxruntime", "onnxruntime-gpu", "grpcio", "protobuf", "numpy")

# The smallest model there is, y = x for float32 [n]; tests/server/test_doctor.py makes the same bytes with onnx.helper.
IDENTITY = bytes.fromhex(
    "08083a390a100a017812017922084964656e746974791201675a100a0178120b0a09080112050a0312016e62100a0179120b0a09080112050a0312016e"
    "42040a001011"
)


def examine(settings: Settings, *, try_models: bool) -> dict[str, Any]:
    """Return the findings: versions, machine, server, models; and the problems among them, one line each."""
    problems: list[str] = []
    machine = resources()
    installed = {name: found for name in _PACKAGES if (found := _version(name))}
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, install one"
        )
    granted = _granted(settings, problems)
    return {
        "versions": {"python": platform.python_version(), **installed},
        "machine": {
            "cpus": f"{machine.cpus:g} ({machine.cpus_from})",
            "memory": f"{machine.memory_bytes / 2**30:.1f} GiB ({machine.memory_from})",
        },
        "server": {
            "edge": _edge(settings, problems),
            "threads_of_a_run": settings.threads,
            "providers_asked_for": list(settings.providers),
            "providers_got": granted,
        },
        "models": _models(settings, problems) if try_models else [],
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _granted(settings: Settings, problems: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "identity.onnx")
        path.write_bytes(IDENTITY)
        options = SessionOptions(providers=settings.providers, allow_cpu_fallback=True, threads=settings.threads)
        granted = Session(path, options).providers
    missing = [provider for provider in settings.providers if provider not in granted]
    if missing and not settings.allow_cpu_fallback:
        problems.append(
            f"models that request {', '.join(missing)} do not load here: ONNX Runtime has {', '.join(granted)}; "
            f"install onnxserve[gpu], repair the driver or the libraries, or set allow_cpu_fallback"
        )
    return list(granted)


def _edge(settings: Settings, problems: list[str]) -> str:
    if settings.edge == "plain":
        return "plain, as configured"
    try:
        from onnxserve_server.edge import self_test

        self_test.run()
    except Exception as error:
        problems.append(f"this grpcio does not support the lane: {error}; install one of the supported range")
        return "plain"
    return "lane"


def _models(settings: Settings, problems: list[str]) -> list[dict[str, str]]:
    found = []
    defaults = Defaults(
        threads=settings.threads, providers=settings.providers, allow_cpu_fallback=settings.allow_cpu_fallback
    )
    services = Services(clock=time.monotonic, deadlines=DeadlineWatch(time.monotonic))
    with Prober(ProbeLimits(tries=settings.probe_timeout, memory_bytes=settings.probe_memory_bytes)) as prober:
        try:
            models = discover(
                settings.models, settings.batching_defaults, lambda *broken: problems.append(str(broken[-1]))
            )
        except ConfigurationError as error:
            problems.append(str(error))
            return []
        for model in models:
            label = f"{model.name}/{model.version}"
            try:
                with contained(model.path):
                    spec = load(model, defaults, prober, services).spec
            except ConfigurationError as error:
                problems.append(str(error))
                found.append({"model": label, "verdict": "does not load"})
            else:
                how = "batched" if spec.batching.enabled else f"one request at a time: {spec.batching.reason}"
                found.append({"model": label, "verdict": how})
    return found
