"""The HTTP port, without a browser: health, metrics, and the page's files."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onnxserve_server import app as wiring
from onnxserve_server.repository import manager
from support import zoo
from support.asking import Http, port_of
from support.waiting import until

ROOT = Path(__file__).parent.parent.parent
MODELS = {"double": zoo.double()}


# Health and metrics


def test_it_is_not_ready_while_it_loads(serving, tmp_path, monkeypatch):
    may_load, load, ports = threading.Event(), manager.load, []

    def load_when_allowed(*arguments, **more):
        assert may_load.wait(60)
        return load(*arguments, **more)

    class Noted(wiring.HttpServer):
        def start(self):
            super().start()
            ports.append(self.port)

    monkeypatch.setattr(manager, "load", load_when_allowed)
    monkeypatch.setattr(wiring, "HttpServer", Noted)
    seen = []

    def look():
        http = Http(until(lambda: ports, 60)[0])
        until(lambda: http.status("/healthz") == 200)
        seen.append(http.status("/readyz"))
        until(lambda: http.fetch_status()["loads"])
        seen.append(http.fetch_status()["loads"][0]["state"])
        may_load.set()

    looking = threading.Thread(target=look)
    looking.start()
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), http_port=0) as running:
        looking.join()
        assert seen == [503, "loading"]
        assert Http(running.app.http_port).status("/readyz") == 200


def test_it_is_alive_but_not_ready_while_it_drains(launch):
    process = launch({"double": zoo.double()}, "--http-port", 0, "--drain-delay", 60)
    http = Http(port_of(process.log))
    assert http.status("/readyz") == 200
    process.popen.send_signal(signal.SIGTERM)
    until(lambda: http.status("/readyz") == 503)
    assert http.status("/healthz") == 200


def test_metrics_are_those_of_the_requests(http_port):
    http_port.predict({"model": "double", "inputs": {"x": {"data": [[1, 2, 3]]}}})
    status, headers, body = http_port.ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(r'^onnxserve_requests_total\{.*model="double".*\} [1-9]', body.decode(), re.MULTILINE)


def test_without_telemetry_there_are_no_metrics_and_predictions_all_the_same(serving, tmp_path):
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), http_port=0, telemetry=False) as running:
        http = Http(running.app.http_port)
        status, _, body = http.ask("/metrics")
        assert (status, b"--no-telemetry" in body) == (404, True)
        assert http.fetch_status()["metrics"] is None
        assert http.predict({"model": "double", "inputs": {"x": {"data": [[1, 2, 3]]}}})[0] == 200


def test_a_port_in_use_ends_the_start_with_one_line(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = onnxserve("serve", "--models", root, "--port", 0, "--http-port", port, "--log-level", "error")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"onnxserve: 127.0.0.1:{port}: cannot listen for HTTP: Address already in use; "
        "choose another --http-port, or -1 for none\n"
    )


def test_the_demo_can_be_kept_and_says_where_the_page_is():
    demo = subprocess.Popen(
        [sys.executable, ROOT / "examples/demo.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"KEEP": "1"},
    )
    with demo:
        lines = (re.search(r"Its status page: http://127\.0\.0\.1:(\d+)$", line) for line in demo.stdout)
        port = int(next(found for found in lines if found)[1])
        http = Http(port)
        assert b"<title>onnxserve</title>" in http.ask("/")[2]
        assert [model["name"] for model in http.fetch_status()["models"]] == ["digits", "names"]
        demo.send_signal(signal.SIGINT)
        assert demo.stdout.read().endswith("Ctrl-C stops it.\n\n")
    assert demo.returncode == 0
    assert http.status("/healthz") is None


# The page's files


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript"), ("/icon.svg", "image/svg+xml")],
)
def test_files_say_what_they_are_and_load_nothing_from_elsewhere(http_port, path, kind):
    status, headers, body = http_port.ask(path)
    assert status == 200
    assert kind in headers["Content-Type"]
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert headers["Cache-Control"] == "no-cache"
    elsewhere = set(re.findall(rb"\bhttps?://[^\s\"'<>)]+", body))
    assert elsewhere <= {b"http://www.w3.org/2000/svg"}  # the name of a language, which nobody fetches
    status, _, body = http_port.ask(path, If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")


@pytest.mark.parametrize("path", ["/nothing", "/../app.py", "/%2e%2e/app.py", "/__init__.py"])
def test_no_other_file_is_given_out(http_port, path):
    assert http_port.status(path) == 404
