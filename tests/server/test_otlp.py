"""The end of pushing, whatever the collector does."""

import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.resources import Resource

from onnxserve_server.errors import ServeError
from onnxserve_server.telemetry import telemetry as telemetry_module
from onnxserve_server.telemetry.otlp import MetricPush, channel_options
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from support.engines import make_sources
from support.otlp import receiver
from support.ports import free_port

LONG = 30.0  # seconds, several times as long as anything here may take


@pytest.fixture
def silent():
    """A collector that takes connections and says nothing: its socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


def endpoint(listener):
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def telemetry(listener):
    """All three signals, to that collector."""
    options = Options(endpoint=endpoint(listener), interval=0.1, trace_ratio=1)
    return Telemetry(options, time.monotonic, make_sources())


def test_what_never_started_can_be_stopped(silent):
    began = time.monotonic()
    MetricPush(endpoint(silent), 60, list, Resource.create()).stop()
    telemetry(silent).stop()
    assert time.monotonic() - began < LONG


def test_opentelemetry_s_own_switch_turns_traces_off(silent, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    disabled = telemetry(silent)
    assert disabled.recorder.begin([], time.monotonic()) is None
    disabled.stop()


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("http://localhost:4317", True),
        ("127.0.0.1:4317", True),
        ("http://[::1]:4317", True),
        ("http://collector:4317", False),
        ("http://10.0.0.1:4317", False),
    ],
)
def test_only_a_collector_on_this_machine_is_reached_without_a_proxy(url, direct):
    assert (channel_options(url) == (("grpc.enable_http_proxy", 0),)) is direct


def test_a_proxy_named_in_the_environment_gets_nothing_that_is_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with receiver() as kept:
        push = MetricPush(kept.endpoint, 60, list, Resource.create())
        push.start()
        push.stop()
        assert len(kept.metrics) == 1


def test_a_collector_that_hangs_does_not_hold_up_the_end(silent, monkeypatch):
    assert telemetry_module._STOP_TIMEOUT <= 5
    monkeypatch.setattr(telemetry_module, "_STOP_TIMEOUT", 0.2)  # an export alone gives up after five seconds
    handlers = list(logging.getLogger().handlers)
    pushing = telemetry(silent)
    pushing.start()
    recorder, now = pushing.recorder, time.monotonic()
    trace = recorder.begin([], now)
    assert trace is not None
    # A span, a record of the log, and figures are there to be sent.
    info = SimpleNamespace(method="Predict", model="m", version="", request_id="", arrived=now, trace=trace)
    recorder.on_answer(info, "INTERNAL", ServeError("it failed"))
    connection, _ = silent.accept()
    with connection:
        began = time.monotonic()
        pushing.stop()
        assert time.monotonic() - began < LONG
        assert "onnxserve-otlp-stop" in {thread.name for thread in threading.enumerate()}  # it waited for none of them
    assert logging.getLogger().handlers == handlers
