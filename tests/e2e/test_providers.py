"""Execution providers: the requested ones serve, or the server says so."""

import json

import numpy as np
import onnxruntime
import pytest

from onnxserve import Client
from support import zoo

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

HAS_CUDA = CUDA in onnxruntime.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")


@pytest.fixture
def root(tmp_path):
    return zoo.write(tmp_path / "models", {"double": zoo.double()})


def serve_command(onnxserve, root, *flags):
    return onnxserve("serve", "--models", root, "--port", 0, "--http-port", -1, *flags)


@without_cuda
@pytest.mark.parametrize("providers", ["cuda", "cuda,cpu", CUDA])
def test_a_provider_that_is_not_there_ends_the_start_with_the_reason(onnxserve, root, providers):
    done = serve_command(onnxserve, root, "--providers", providers)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("onnxserve: ")]
    assert f"{root}/double/1/model.onnx: requests {CUDA}, but this onnxruntime has only" in line
    assert "onnxserve[gpu]" in line
    assert "Traceback" not in done.stderr


@without_cuda
def test_a_model_yaml_can_ask_for_a_provider_too(onnxserve, root):
    (root / "double" / "model.yaml").write_text("providers: cuda")
    done = serve_command(onnxserve, root, "--providers", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"requests {CUDA}" in done.stderr


@without_cuda
def test_where_the_cpu_may_stand_in_the_model_and_the_log_say_so(launch):
    server = launch({"double": zoo.double()}, "--allow-cpu-fallback", configs={"double": "providers: cuda"})
    with Client(server.address, retries=0) as client:
        runtime = client.model("double").runtime
        receipt = client.predict("double", {"x": np.ones((1, 3), np.float32)}).receipt
    assert runtime.requested_providers == (CUDA, CPU)
    assert runtime.providers == (CPU,)
    assert receipt.provider == CPU
    assert f"WARNING onnxserve_server.repository.loader: model double/1 runs on {CPU}" in server.log.read_text()
    assert f"requested, but not available: {CUDA}" in server.log.read_text()


@without_cuda
def test_the_doctor_tells_what_was_asked_for_and_got(onnxserve):
    done = onnxserve("doctor", "--providers", "cuda", "--json")
    found = json.loads(done.stdout)
    assert found["server"]["providers_asked_for"] == [CUDA, CPU]
    assert found["server"]["providers_got"] == [CPU]
    assert any(CUDA in problem for problem in found["problems"])
    assert done.returncode == 1


def test_a_name_that_is_no_provider_is_refused(onnxserve, root):
    done = serve_command(onnxserve, root, "--providers", "quantum")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown execution provider 'quantum'" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="onnxruntime has no CUDAExecutionProvider here")
def test_a_model_runs_on_the_gpu(serving, root):
    with serving(root, providers="cuda") as server:
        prediction = server.client.predict("double", {"x": np.ones((1, 3), np.float32)})
        assert server.client.model("double").runtime.providers[0] == CUDA
    assert prediction.receipt.provider == CUDA
    assert prediction["y"].tolist() == [[2, 2, 2]]
