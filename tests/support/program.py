"""What the manifests may name, read from the program."""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass

import grpc
from pydantic import BaseModel
from starlette.routing import Route

from onnxserve_server.edge import server
from onnxserve_server.repository.config import BatchingConfig, ModelConfig, SequencesConfig
from onnxserve_server.repository.load_status import LoadStatuses
from onnxserve_server.settings import Settings
from onnxserve_server.telemetry.catalogue import INSTRUMENTS, prometheus_name
from onnxserve_server.web.app import make_app
from onnxserve_server.web.status import ServerStatus
from support.cluster import ROOT
from support.engines import make_engine


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program's names and times. The settings are not here: the tests ask the real command line for them.

    Attributes:
        version: of the project.
        variants: of the image, as the project's extras are called.
        inference: full name of the service that answers requests.
        process: name of the process in grpc.health.v1.
        codes: names of gRPC's status codes.
        keys: flags, and keys of model.yaml.
        options: of execution providers, as docs/guides/serve.md shows them.
        metrics: series at /metrics, with the labels of each.
        paths: what the HTTP port answers.
        ending: seconds that the steps of a stop take beside drain delay and drain timeout.
        temporary: where the program writes.
    """

    version: str
    variants: frozenset[str]
    inference: str
    process: str
    codes: frozenset[str]
    keys: frozenset[str]
    options: frozenset[str]
    metrics: dict[str, frozenset[str]]
    paths: frozenset[str]
    ending: float
    temporary: str

    @property
    def labels(self):
        """Labels of any series."""
        return frozenset().union(*self.metrics.values())


def program():
    """What the program is now."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metrics = {}
    for instrument in INSTRUMENTS:
        labels = frozenset(name.replace(".", "_") for name in instrument.attributes)
        suffixes = ("_bucket", "_sum", "_count") if instrument.kind == "histogram" else ("",)
        metrics |= {prometheus_name(instrument) + suffix: labels for suffix in suffixes}
    parts: dict[str, type[BaseModel]] = {"batching": BatchingConfig, "sequences": SequencesConfig}
    keys = ["--" + name.replace("_", "-") for name in Settings.model_fields] + list(ModelConfig.model_fields)
    keys += [f"{part}.{name}" for part, config in parts.items() for name in config.model_fields]
    in_a_pod = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
    return Program(
        version=project["version"],
        variants=frozenset(project["optional-dependencies"]) & {"cpu", "gpu"},
        inference=server.INFERENCE,
        process="",
        codes=frozenset(code.name for code in grpc.StatusCode),
        keys=frozenset(keys),
        options=frozenset(re.findall(r"`providers: {cuda: {(\w+):", (ROOT / "docs/guides/serve.md").read_text())),
        metrics=metrics,
        paths=frozenset(route.path for route in make_app(_nothing_served()).routes if isinstance(route, Route)),
        ending=server._MAX_REFUSING + server._HANDING_OVER + server._STOP_TIMEOUT + server._WATCHERS_GRACE,
        temporary=subprocess.run(in_a_pod, env={}, check=True, capture_output=True, text=True).stdout.strip(),
    )


def _nothing_served():
    return ServerStatus(make_engine(), LoadStatuses(), lambda: True, None)
