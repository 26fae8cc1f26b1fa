"""A real Prometheus, Debian's package, that scrapes servers of the tests."""

import contextlib
import json
import shutil
import socket
import subprocess
from urllib.parse import quote
from urllib.request import urlopen

import pytest

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing; scripts/install-debian.sh installs it"
)


@contextlib.contextmanager
def prometheus(folder, *targets, rules=""):
    """Scrape targets ("host:port") every second until the block ends.

    Gives a function that evaluates an expression: [(labels, value), ...], empty while Prometheus is not there yet.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "rules.yml").write_text(rules)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        + ("rule_files: [rules.yml]\n" if rules else "")
        + f"scrape_configs: [{{job_name: onnxserve, static_configs: [{{targets: {json.dumps(targets)}}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]

    def query(expression):
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return [(one["metric"], float(one["value"][1])) for one in result]

    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            yield query
        finally:
            process.kill()
            process.wait()
