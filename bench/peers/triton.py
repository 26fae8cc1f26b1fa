"""Triton and onnxserve in turn, on the same models: python -m bench.peers.triton.

Triton is the real C++ server of the package nvidia-pytriton: its gRPC front end, core and dynamic batcher, with the
Python backend, in which ONNX Runtime runs the models (Triton's own ONNX Runtime backend is in no package). What is
compared is therefore front end, batching and hand-off; where the run dominates, that is also the whole.
"""

import argparse
import importlib.metadata
import io
import json
import os
import shutil
import socket
import subprocess
import venv
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import figures, models, ours, report
from bench.__main__ import add_plan_options, plan_of
from bench.cells import Plan, contender, measure
from bench.load import Target
from bench.models import MODELS, Floats, Model
from bench.peers import triton_sdk
from bench.process import ServerProcess

HOME = Path("build/bench/triton")
_RUNTIME = f"onnxruntime=={importlib.metadata.version('onnxruntime')}"  # the one that onnxserve runs on
PACKAGES = ("nvidia-pytriton==0.7.0", _RUNTIME, "tritonclient[grpc]")
_HERE = Path(__file__).parent
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CONTENDERS = {"beside_triton": "onnxserve", "triton": "Triton"}
_PROBE = """
import json, sys, sysconfig
print(json.dumps([sysconfig.get_path("purelib"), sysconfig.get_config_var("LIBDIR"), "%d.%d" % sys.version_info[:2]]))
"""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where the environment with Triton has what."""

    python: Path
    site: Path  # its site-packages
    libraries: Path  # of the Python it was made from: the backend's stub links libpython
    version: str  # of Python, such as "3.12"

    @property
    def triton(self) -> Path:
        """The folder of Triton's server in the package."""
        return self.site / "pytriton" / "tritonserver"


def install() -> Installation:
    """Make the environment where it is missing, and return where things are."""
    python = (HOME / "venv" / "bin" / "python").absolute()
    if not python.exists():
        venv.create(HOME / "venv", with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    subprocess.run(pip, check=True)
    probed = subprocess.run([str(python), "-c", _PROBE], check=True, capture_output=True, text=True).stdout
    site, libraries, version = json.loads(probed)
    return Installation(python=python, site=Path(site), libraries=Path(libraries), version=version)


def prepare_backend(installed: Installation) -> Path:
    """Put the Python backend together with its stub for this Python, as Triton looks for them; return their folder.

    Raises:
        FileNotFoundError: the package has no stub for this version of Python.
    """
    backends = HOME / "backends"
    stub = installed.triton / "python_backend_stubs" / installed.version / "triton_python_backend_stub"
    if not stub.exists():
        raise FileNotFoundError(f"{PACKAGES[0]} has no Python backend for Python {installed.version}")
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(installed.triton / "backends" / "python", backends / "python")
    shutil.copy(stub, backends / "python")
    for program in (backends / "python" / stub.name, installed.triton / "bin" / "tritonserver"):
        program.chmod(0o755)  # pip does not keep the mode
    return backends.absolute()


def prepare_repository() -> Path:
    """Write the benchmark's models as a model repository of Triton; return its folder."""
    repository = HOME / "models"
    shutil.rmtree(repository, ignore_errors=True)
    for model in MODELS.values():
        version = repository / model.name / "1"
        version.mkdir(parents=True)
        shutil.copy(model.path, version)
        shutil.copy(_HERE / "triton_model.py", version / "model.py")
        (repository / model.name / "config.pbtxt").write_text(_config(model))
    return repository.absolute()


def _config(model: Model) -> str:
    """As onnxserve is set up: rows batched up to 64, no delay, one instance on the CPU."""
    row = ", ".join(map(str, model.row))
    return f"""name: "{model.name}"
backend: "python"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_FP32 dims: [{row}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{model.columns}] }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


def serve(installed: Installation) -> ServerProcess:
    """Start Triton with the benchmark's models on a free port."""
    address, http = _free_address(), _free_address()
    options = {
        "model-repository": prepare_repository(),
        "backend-directory": prepare_backend(installed),
        "grpc-address": address.split(":")[0],
        "grpc-port": address.split(":")[1],
        "http-address": http.split(":")[0],
        "http-port": http.split(":")[1],
        "allow-metrics": "false",
    }
    command = [installed.triton / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in options.items())]
    env = {
        "LD_LIBRARY_PATH": f"{installed.site / 'nvidia_pytriton.libs'}:{installed.libraries}",
        "PATH": f"{installed.python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(installed.site),
    }
    return ServerProcess("triton", [*map(str, command)], ready="Started GRPCInferenceService", address=address, env=env)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Triton's messages, made and read by the environment that has their classes."""

    python: Path

    def target(self, address: str, model: Model) -> Target:
        """A ModelInfer of the model's one row."""
        row = io.BytesIO()
        np.save(row, model.one_row())
        return Target(address=address, method=_METHOD, message=self._run(["encode", model.name], row.getvalue()))

    def decode(self, answer: bytes) -> Floats:
        """The output y of a ModelInferResponse."""
        return np.asarray(np.load(io.BytesIO(self._run(["decode"], answer))), np.float32)

    def _run(self, arguments: Sequence[str], given: bytes) -> bytes:
        command = [str(self.python), str(_HERE / "triton_wire.py"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, input=given).stdout


def compare(plan: Plan) -> figures.Keys:
    """Measure both, cell by cell, and return the figures of each and the ratios."""
    installed = install()
    wire = Wire(python=installed.python)
    with ExitStack() as stack:
        triton = stack.enter_context(serve(installed))
        server = stack.enter_context(ours.serve("beside_triton"))
        contenders = [
            contender(server, plan.models, ours.target, ours.decode, models.expected),
            contender(triton, plan.models, wire.target, wire.decode, models.expected),
        ]
        results = measure(plan, contenders, with_raw=False)
        keys: figures.Keys = {}
        if MODELS["tiny"] in plan.models:
            keys = triton_sdk.measure(server.address, triton.address, installed.python, plan.runs, plan.seconds)
    for model, callers in plan.cells:
        for key, figure in (("vs_triton", "rps"), ("cpu_vs_triton", "cpu_us")):
            both = {"ours": "beside_triton", "theirs": "triton"}
            keys[f"{model}.c{callers}.{key}"] = figures.ratio(results, model, callers, **both, figure=figure)
    return keys | figures.served(results, *_CONTENDERS)


def _ratio_grid(plan: Plan, keys: figures.Keys) -> report.Grid:
    cells = [f"{model}.c{callers}" for model, callers in plan.cells]
    rows = [[cell, f"{keys[f'{cell}.vs_triton']:.2f}", f"{keys[f'{cell}.cpu_vs_triton']:.2f}"] for cell in cells]
    return report.Grid(columns=["cell", "vs_triton: requests/s", "cpu_vs_triton: CPU-µs"], names=1, rows=rows)


def main() -> None:
    """Install, measure, print; add to build/bench.json, write build/bench-triton.md."""
    parser = argparse.ArgumentParser(prog="bench.peers.triton", description=__doc__.split("\n")[0])
    add_plan_options(parser)
    plan = plan_of(parser.parse_args())
    models.write()
    keys = compare(plan)
    grids = [report.cell_grid(plan, keys, _CONTENDERS), _ratio_grid(plan, keys)]
    grids.append(report.key_grid(keys, triton_sdk.MEANINGS))
    before = json.loads(report.JSON.read_text()) if report.JSON.exists() else {}
    report.publish({**before, **report.machine(), **keys}, grids, Path("build/bench-triton.md"))


if __name__ == "__main__":
    main()
