"""A real Prometheus, Debian's package, that scrapes servers of the tests."""

import contextlib
import json
import shutil
import subprocess
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from support.ports import free_port

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing; scripts/install-debian.sh installs it"
)


@contextlib.contextmanager
def prometheus(folder, *targets, rules="", interval=1.0):
    """Scrape targets every `interval` seconds until the block ends.

    Args:
        folder: for its files.
        targets: "host:port", or that and the labels of what is scraped there.
        rules: the text of a file of rules.

    Gives a function that evaluates an expression: [(labels, value), ...], empty while Prometheus is not there yet.
    """
    port = free_port()
    (folder / "rules.yml").write_text(rules)
    pairs = [(target, {}) if isinstance(target, str) else target for target in targets]
    every = f"{interval * 1000:.0f}ms"
    scraped = [{"targets": [target], "labels": labels} for target, labels in pairs]
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: {every}}}\n"
        + ("rule_files: [rules.yml]\n" if rules else "")
        + f"scrape_configs: [{{job_name: onnxserve, static_configs: {json.dumps(scraped)}}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--query.lookback-delta={20 * interval * 1000:.0f}ms"]  # five minutes of 15 seconds each

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
