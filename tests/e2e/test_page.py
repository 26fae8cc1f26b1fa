"""The status page in a browser: what it draws is right in every state of the server, and none of its scripts fails."""

import contextlib
import re
import threading
import time

import numpy as np
import pytest

from onnxserve import Client
from support import zoo
from support.asking import port_of
from support.ports import free_port
from support.shown import HOSTILE, digits, labelled
from support.waiting import until

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By

from support.browsing import NONE, number

CALLERS = 64
MODELS = {
    "digits": digits(),
    "double": zoo.double(),
    "pair": zoo.two_by_two(),
    "slow": zoo.slow(),
    "mixing": zoo.mixing(),
    "gru": zoo.gru(),
    "hostile": labelled(),
}


@contextlib.contextmanager
def load(address, model, inputs, callers=CALLERS):
    """Have callers call until the block ends; gives the list that their answers are counted in."""
    stop, answered = threading.Event(), []

    def call(client):
        while not stop.is_set():
            client.predict(model, inputs, timeout=60, request_id="mine")  # a named one travels alone
            answered.append(time.monotonic())

    with Client(address) as client:
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield answered
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)


def rate_of(answered):
    """The answers a second of the last ten seconds."""
    now = time.monotonic()
    return sum(now - at < 10 for at in list(answered)) / 10


# What it shows


def test_under_the_load_of_64_callers_its_figures_are_right(page, launch):
    process = launch({"digits": MODELS["digits"]}, "--http-port", 0)
    page.open(port_of(process.log))
    image = np.zeros((1, 3, 32, 32), np.float32)
    with load(process.address, "digits", {"image": image}) as answered:
        until(lambda: number(page.tile("Requests/s")) > 0)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 12, 30)  # what a figure of now is taken over, and an interval
        until(lambda: number(page.tile("Requests/s")) == pytest.approx(rate_of(answered), rel=0.2), 30)
        assert number(page.tile("Rows per run")) > 2
        row = page.find("#model-table tbody tr").text.split()
        assert row[:4] == ["digits", "1", "ready", "CPU"]
        assert number(row[4]) > 0.3 * rate_of(answered)
        assert page.tile("Failed") == "0 %"
        for title in (
            "Requests per second",
            "Latency",
            "Latency distribution",
            "Rows per run",
            "CPUs in use",
            "Memory",
        ):
            assert re.search(r"[1-9]", page.chart(title)), title
        drawn = [chart.find_elements(By.CSS_SELECTOR, "path, rect") for chart in page.all(".plot")]
        assert all(drawn)
    total = f"{len(answered):,}"
    until(lambda: page.fact("OK").split(" ")[0] == total)
    slow = [row.text for row in page.all("#slow-table tbody tr")]
    assert slow and all("digits/1" in row and "Predict" in row for row in slow)
    p50, p99 = (page.run(f"return document.querySelectorAll('#tiles dd span')[{i}].textContent") for i in (2, 3))
    assert p50 != p99


def test_figures_can_be_those_of_one_model(opened, http_server):
    http_server.client.predict("pair", {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)})
    http_server.client.predict("double", {"x": np.zeros((5, 3), np.float32)})
    opened.choose("#scope", "pair/1")
    until(lambda: opened.fact("OK") is not None)
    before = number(opened.fact("OK"))
    http_server.client.predict("pair", {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)})
    http_server.client.predict("double", {"x": np.zeros((5, 3), np.float32)})
    until(lambda: number(opened.fact("OK")) == before + 1)
    assert "1 rows on average" in opened.chart("Rows per run")


def test_with_200_models_it_shows_each_and_finds_them_at_once(page, launch):
    process = launch({f"model-{i:03}": zoo.double() for i in range(200)}, "--http-port", 0)
    page.open(port_of(process.log))
    until(lambda: len(page.all("#model-table tbody tr:not(.details)")) == 200)
    assert page.text("#model-count") == "200"
    texts, before = ["m", "model-1", "model-17", "", "17", "ready cpu 199"], page.layouts()
    for text in texts:
        page.type(text, "#filter")
    assert page.layouts() - before < 100  # not one for each row and text
    assert page.text("#model-count") == "1 of 200"
    assert [row.text.split()[0] for row in page.all("#model-table tbody tr") if row.is_displayed()] == ["model-199"]
    page.type("nothing like it", "#filter")
    assert page.text("#no-models") == "No model matches the filter."


def test_models_are_sorted_by_what_is_clicked(opened):
    def names():
        return [row.text.split()[0] for row in opened.all("#model-table tbody tr:not(.details)")]

    until(lambda: len(names()) == len(MODELS))
    assert names() == sorted(MODELS)
    opened.find("#model-table th button").click()
    assert names() == sorted(MODELS, reverse=True)
    assert opened.find("#model-table th").get_attribute("aria-sort") == "descending"


def test_a_row_opens_to_what_the_model_is(opened):
    def open_row(name):
        opener = next(one for one in opened.all(".opener") if one.text == name)
        opener.click()
        assert opener.get_attribute("aria-expanded") == "true"
        return opened.find(f"[id='{opener.get_attribute('aria-controls')}']").text

    until(lambda: len(opened.all(".opener")) == len(MODELS))
    details = open_row("pair")
    for part in (
        "a: float32 [batch, 2]",
        "b: int64 [batch, 3]",
        "p: float32 [batch, 2]",
        "up to 64 rows",
        "independent (proved): no row changed",
        "ready since",
    ):
        assert part in details
    assert "off, one request at a time: " in open_row("mixing")
    assert "axis 1 of input 'x' has the size 0, which the model does not survive" in open_row("gru")


def test_without_models_it_says_so(page, bare):
    port, loads = bare()
    page.open(port, state="draining")
    assert page.text("#state") == "starting"
    assert page.find("#no-models").is_displayed()
    assert page.text("#model-count") == "0"
    assert page.find("#send").get_attribute("aria-disabled") == "true"
    loads.begin("first", "1")
    until(lambda: page.text("#state") == "loading first/1")
    assert "loading" in page.find("#model-table tbody tr").text


def test_a_model_that_batches_no_more_stands_at_the_top_with_the_reason(page, launch):
    process = launch({"m": zoo.dropping()}, "--http-port", 0, configs={"m": "batching: {enabled: true}"})
    page.open(port_of(process.log))
    assert not page.find("#stopped").is_displayed()
    with Client(process.address) as client:
        client.predict("m", {"x": np.full((2, 4), zoo.DROPPED, np.float32)})
    until(lambda: page.find("#stopped").is_displayed())
    assert "m/1" in page.text("#stopped")
    assert "its output y had the shape [0, 4] for 2 rows" in page.text("#stopped")
    assert page.find("#stopped").rect["y"] < page.find("#traffic").rect["y"]


def test_a_failed_load_stands_at_the_top_with_its_error(page, launch, tmp_path):
    configs = {"broken": "labels: {y: [only-one]}\n"}
    process = launch(
        {"broken": zoo.mixing(), "double": zoo.double()}, "--http-port", 0, "--skip-broken-models", configs=configs
    )
    page.open(port_of(process.log))
    failed = page.find("#failed")
    assert failed.is_displayed()
    assert "broken/1" in failed.text
    assert "model.yaml: labels.y: 1 names for 2 classes" in failed.text
    assert failed.rect["y"] < page.find("#traffic").rect["y"]
    assert "failed" in page.find("#model-table tbody tr").text


def test_a_stopped_model_is_listed_as_stopped_and_offered_no_more(page, serving, tmp_path):
    def row():
        line = next(one for one in page.all("#model-table tbody tr:not(.details)") if one.text.startswith("double"))
        return line.text.split()

    def offered(selector):
        return [option.get_attribute("value") for option in page.all(f"{selector} option")]

    with serving(zoo.write(tmp_path, {"double": zoo.double(), "pair": zoo.two_by_two()}), http_port=0) as running:
        page.open(running.app.http_port)
        until(lambda: offered("#form-model") == ["double", "pair"])
        assert row()[:4] == ["double", "1", "ready", "CPU"]
        running.app.manager.stop("double", "1")
        until(lambda: row() == ["double", "1", "stopped", *5 * [NONE]])
        assert offered("#form-model") == ["pair"]
        assert offered("#scope") == ["", "pair/1"]
        page.find(".opener").click()
        assert "stopped since" in page.find("#model-table .details").text
        assert page.text("#state") == "ready"


def test_names_and_errors_are_text_whatever_they_hold(page, bare, http_server):
    port, loads = bare()
    loads.fail(loads.begin(HOSTILE, "1"), f"it is broken: {HOSTILE}")
    page.open(port, state="draining")
    until(lambda: page.find("#failed").is_displayed())
    assert f"it is broken: {HOSTILE}" in page.text("#failed")
    assert HOSTILE in page.text("#model-table")
    page.open(http_server.app.http_port)
    page.model("hostile")
    assert HOSTILE in page.text("#form-inputs legend")
    page.type("[[1, 2, 3]]")
    assert HOSTILE in page.send()
    http_server.client.predict("slow", {"x": np.full((1, 1), 20, np.float32)}, request_id=HOSTILE)
    until(lambda: HOSTILE in page.text("#slow-table"))
    assert page.run("return [window.hacked === undefined, document.scripts.length, document.images.length]") == [
        True,
        1,
        1,
    ]


def test_without_telemetry_it_says_so_and_shows_the_models(page, serving, tmp_path):
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), http_port=0, telemetry=False) as running:
        page.open(running.app.http_port)
        until(lambda: "--no-telemetry" in page.text("#notice"))
        assert not page.find("#charts").is_displayed()
        assert page.find("#model-table tbody tr").text.split() == ["double", "1", "ready", "CPU", *4 * [NONE]]


def test_it_finds_the_server_again_after_a_restart(page, launch):
    page.expected = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE"]  # while nobody is there
    models, x = {"double": zoo.double()}, {"x": np.zeros((1, 3), np.float32)}
    port = free_port()
    process = launch(models, "--http-port", port)
    page.open(port)
    with Client(process.address) as client:
        for _ in range(5):
            client.predict("double", x)
    until(lambda: (page.fact("OK") or "").startswith("5 "))
    page.model("double")
    page.type("[[7, 7, 7]]")
    process.stop()
    page.wait_for_state("unreachable")
    assert re.fullmatch(r"server unreachable since \d\d:\d\d:\d\d", page.text("#state"))
    process = launch(models, "--http-port", port)
    page.wait_for_state("ready")
    assert "was restarted at" in page.text("#notice")
    with Client(process.address) as client:
        client.predict("double", x)
    until(lambda: (page.fact("OK") or "").startswith("1 "))
    assert "-" not in page.tile("Requests/s")
    assert page.find("#form textarea").get_property("value") == "[[7, 7, 7]]"
    process.stop()
    page.wait_for_state("unreachable")


def test_it_does_not_ask_while_nobody_looks(opened):
    def fetched():
        return opened.run(
            "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/api/status')).length"
        )

    until(lambda: fetched() > 1)
    opened.hide(True)
    before, began = fetched(), time.monotonic()
    until(lambda: time.monotonic() - began > 4.5)  # two of its intervals
    assert fetched() <= before + 1  # one may have been under way
    opened.hide(False)
    until(lambda: fetched() > before + 2)


# The figures


def test_quantiles_are_those_of_the_values_within_a_bucket(page, http_server):
    page.open(http_server.app.http_port)
    bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1]
    values = np.random.default_rng(0).gamma(3, 0.004, 5000)
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).tolist()
    distribution = {"bounds": bounds, "counts": counts, "total": 5000, "sum": float(values.sum())}
    for share in (0.5, 0.9, 0.99):
        found = page.module("samples.js", "return m.quantile(a[0], a[1])", distribution, share)
        true = np.quantile(values, share)
        assert np.searchsorted(bounds, found) == np.searchsorted(bounds, true)
    even = {"bounds": [1, 2, 4], "counts": [25, 25, 50, 0], "total": 100}
    assert [page.module("samples.js", "return m.quantile(a[0], a[1])", even, share) for share in (0.25, 0.5, 0.9)] == [
        1,
        2,
        3.6,
    ]
    assert page.module("samples.js", "return m.quantile(null, 0.5)") is None
    assert page.module("samples.js", "return m.quantile({ bounds: [1, 2], counts: [0, 0, 4], total: 4 }, 0.5)") == 2


def test_rates_are_differences_and_a_gap_breaks_a_line(page, http_server):
    page.open(http_server.app.http_port)
    figures = page.module(
        "samples.js",
        """
        const status = (now, requests, failed) => ({ now, metrics: {
          'onnxserve.requests': { points: [
            { attributes: { model: 'a', version: '1', 'rpc.response.status_code': 'OK' }, value: requests },
            { attributes: { model: 'b', version: '1', 'rpc.response.status_code': 'INTERNAL' }, value: failed }] },
          'process.cpu.time': { points: [{ value: now / 2 }, { value: now / 4 }] } } });
        const history = new m.History();
        for (const [now, requests, failed] of [[100, 10, 0], [102, 30, 0], [104, 50, 10], [204, 150, 10]])
          history.push(m.sampleOf(status(now, requests, failed)));
        const first = history.over(4, 2);
        return {
          rates: [first.rate('a/1'), first.rate('b/1'), first.rate(m.ALL)],
          failed: [first.failed('a/1'), first.failed(m.ALL), history.over(1).failed('b/1')],
          cpu: first.cpu(),
          series: history.series(0.5, (span) => span.rate('a/1')),
        };""",
    )
    assert figures["rates"] == [10, 2.5, 12.5]
    assert figures["failed"] == [0, pytest.approx(0.2), None]
    assert figures["cpu"] == pytest.approx(0.75)
    assert figures["series"] == [[102, 10], [104, 10], [154, None], [204, 1]]
