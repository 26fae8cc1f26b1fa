"""A real Prometheus with the overlay's rules at a multiple of their speed, and callers that make the loads for them."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading

import grpc
import numpy as np

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2, inference_service_pb2_grpc
from support import zoo
from support.asking import port_of
from support.cluster import manifest
from support.ports import free_port
from support.scraping import prometheus
from support.timelapse import faster, faster_rules, seconds

GROUPS = manifest("overlays/monitoring/rules.yaml")["spec"]["groups"]
_INTERVAL = seconds(manifest("overlays/monitoring/servicemonitor.yaml")["spec"]["endpoints"][0]["interval"])
_VARIABLES = {
    "$__rate_interval": f"{4 * _INTERVAL:.0f}s",  # Grafana's own rule
    "$namespace": ".*",
    "$pod": ".*",
    "$model": ".*",
}


@contextlib.contextmanager
def watched(folder, pods, factor):
    """Watch servers, {(namespace, pod): "host:port"}, as Prometheus Operator would, `factor` times as fast.

    Gives a function that evaluates an expression of that speed, with a dashboard's variables: all of everything.
    """
    targets = [(target, {"namespace": namespace, "pod": pod}) for (namespace, pod), target in pods.items()]
    rules = json.dumps({"groups": faster_rules(GROUPS, factor)})  # JSON is YAML, too

    def evaluate(expression):
        for name, value in _VARIABLES.items():
            expression = expression.replace(name, value)
        return query(faster(expression, factor))

    with prometheus(folder, *targets, rules=rules, interval=_INTERVAL / factor) as query:
        yield evaluate


def firing(query, expression='ALERTS{alertstate="firing"}'):
    """{(alert, namespace, pod, model)} of alerts; "" where one is not of one pod, or of one model."""
    return {
        (labels["alertname"], *(labels.get(name, "") for name in ("namespace", "pod", "model")))
        for labels, _ in query(expression)
    }


class Patient:
    """A server in a process of its own, at one address whenever it runs. A model of its two is damaged."""

    def __init__(self, folder):
        self._models = zoo.write(folder / "patient", {"double": zoo.double(), "damaged": zoo.double()})
        self._damaged = self._models / "damaged/1/model.onnx"
        self._whole = self._damaged.read_bytes()
        self._damaged.write_bytes(self._whole[:20])
        self._log = (folder / "patient.log").open("w")
        self.http_port = free_port()
        self.start()

    def start(self):
        """Start it; its HTTP port opens before its models are loaded."""
        flags = ["--port=0", f"--http-port={self.http_port}", "--providers=cpu", "--threads=1", "--skip-broken-models"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onnxserve", "serve", f"--models={self._models}", *flags],
            stdout=self._log,
            stderr=self._log,
        )

    def kill(self):
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def mend(self):
        """Make the model whole."""
        self._damaged.write_bytes(self._whole)

    def close(self):
        """End it for good."""
        self.kill()
        self._log.close()


@contextlib.contextmanager
def on_one_cpu(folder, models):
    """Serve models in a process that has one CPU until the block ends; gives its addresses, of gRPC and of HTTP."""
    cpu, log = max(os.sched_getaffinity(0)), folder / "server.log"
    flags = ["--port=0", "--http-port=0", "--providers=cpu", "--threads=1"]
    command = ["taskset", "-c", str(cpu), sys.executable, "-m", "onnxserve", "serve", f"--models={models}", *flags]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("onnxserve is ready on "), log.read_text()
        yield line.split()[-1], f"127.0.0.1:{port_of(log)}"
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def benching(address, model, callers):
    """Have `onnxserve bench` call a model from so many callers, in a process of its own, until the block ends."""
    load = [f"--target={address}", f"--concurrency={callers}", "--seconds=600"]
    command = [sys.executable, "-m", "onnxserve", "bench", model, *load]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def predict(model, **inputs):
    """A request for a model."""
    request = inference_service_pb2.PredictRequest(model=model)
    request.inputs.extend(encode(name, np.asarray(array)) for name, array in inputs.items())
    return request


@contextlib.contextmanager
def calling(address, *requests, callers=1, pause=0.02, timeout=None):
    """Send requests in turn, whatever comes back, from so many callers until the block ends."""
    ended = threading.Event()

    def call():
        for request in itertools.cycle(requests):
            if ended.is_set():
                return
            with contextlib.suppress(grpc.RpcError):
                stub.Predict(request, timeout=timeout)
            ended.wait(pause)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    with grpc.insecure_channel(address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@contextlib.contextmanager
def overloading(address, request, times):
    """Send `times` requests for each that is answered, until the block ends.

    So that much more comes than can be served, whatever this machine is worth at the moment.
    """
    calls, ended, owed = set(), threading.Event(), 0.0

    def send():
        call = stub.Predict.future(request)
        calls.add(call)
        call.add_done_callback(answered)

    def answered(call):
        nonlocal owed
        calls.discard(call)
        if ended.is_set() or call.code() is not grpc.StatusCode.OK:
            return
        owed += times
        while owed >= 1:
            owed -= 1
            send()

    with grpc.insecure_channel(address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        send()
        try:
            yield
        finally:
            ended.set()
            for call in list(calls):
                call.cancel()
