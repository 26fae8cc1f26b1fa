"""The status page in a browser: what it draws is right, whatever the server is at, and no script of it fails."""

import contextlib
import itertools
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper
from waiting import until

from onnxserve import Client
from onnxserve_server.engine.engine import Engine
from onnxserve_server.repository.loads import Loads
from onnxserve_server.telemetry.assembly import Options, Telemetry
from onnxserve_server.web.app import make_app
from onnxserve_server.web.server import HttpServer
from onnxserve_server.web.status import ServerStatus

pytest.importorskip("selenium", reason="selenium is not installed")
from browsing import CHROMIUM, DRIVER, Page, chromium, write_png
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).parent.parent.parent
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
PHONE = 360  # pixels
CALLERS = 64
NONE = "\N{EN DASH}"  # a figure that is not there

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason=f"{CHROMIUM} and {DRIVER} are not there: run scripts/install-debian.sh",
)


def pixels(name, layout, dtype):
    """y = x for pictures: the shape in words, a free axis where it is no number."""
    shape = [int(size) if size.isdecimal() else size for size in layout.split()]
    nodes = [helper.make_node("Identity", ["x"], ["y"], name=name)]
    return zoo.model(nodes, [zoo.tensor("x", shape, dtype)], [zoo.tensor("y", shape, dtype)])


def labelled():
    """double(), whose names and texts are meant to be run by a browser."""
    made = zoo.double()
    for node in made.graph.node:
        node.input[:] = [HOSTILE if name == "x" else name for name in node.input]
    made.graph.input[0].name = HOSTILE
    made.graph.doc_string = made.doc_string = HOSTILE
    helper.set_model_props(made, {"labels": json.dumps({"y": [HOSTILE, "b", "c"]})})
    onnx.checker.check_model(made)
    return made


MODELS = {
    "digits": onnx.load(ROOT / "examples/models/digits/1/model.onnx"),
    "double": zoo.double(),
    "pair": zoo.two_by_two(),
    "slow": zoo.slow(),
    "int64": zoo.identity(TensorProto.INT64),
    "text": zoo.identity(TensorProto.STRING),
    "mixing": zoo.mixing(),
    "hostile": labelled(),
    "nhwc": pixels("nhwc", "batch 16 24 3", TensorProto.UINT8),
    "gray": pixels("gray", "batch 1 height width", TensorProto.FLOAT),
    "a-model-with-a-name-that-is-longer-than-a-narrow-window-is-wide-" + "x" * 80: zoo.double(),
}


@pytest.fixture(scope="module")
def driver():
    with chromium("--window-size=1280,1000") as driver:
        yield driver


@pytest.fixture
def page(driver):
    page = Page(driver)
    yield page
    severe = page.severe()
    page.leave()
    assert severe == []


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS)
    with serving(root, http_port=0) as running:
        yield running


@pytest.fixture
def opened(page, server):
    return page.open(server.app.http_port)


@pytest.fixture
def bare():
    """The HTTP port of an engine without models; call it with whether it is ready and fill its loads."""
    with contextlib.ExitStack() as stack:

        def start(ready=False):
            engine, loads = Engine(time.monotonic), Loads()
            telemetry = Telemetry(Options(), time.monotonic, engine.models, engine.known)
            status = ServerStatus(engine, loads, lambda: ready, telemetry)
            http = HttpServer(lambda: make_app(status), "127.0.0.1", 0)
            http.start()
            stack.callback(http.stop)
            return http.port, loads

        yield start


def http_port(process):
    """Return the HTTP port that a server's log tells."""
    return int(re.search(r"status page on http://127\.0\.0\.1:(\d+)", process.log.read_text())[1])


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


def number(text):
    """The first number of a text; 0 where there is none."""
    return 0.0 if text == NONE else float(text.replace(",", "").split()[0])


# What it shows


def test_under_the_load_of_64_callers_its_figures_are_right(page, launch):
    process = launch({"digits": MODELS["digits"]}, "--http-port", 0)
    page.open(http_port(process))
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


def test_figures_can_be_those_of_one_model(opened, server):
    server.client.predict("pair", {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)})
    server.client.predict("double", {"x": np.zeros((5, 3), np.float32)})
    opened.choose("#scope", "pair/1")
    until(lambda: opened.fact("OK") is not None)
    before = number(opened.fact("OK"))
    server.client.predict("pair", {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.int64)})
    server.client.predict("double", {"x": np.zeros((5, 3), np.float32)})
    until(lambda: number(opened.fact("OK")) == before + 1)
    assert "1 rows on average" in opened.chart("Rows per run")


def test_with_200_models_it_shows_each_and_finds_them_at_once(page, launch):
    process = launch({f"model-{i:03}": zoo.double() for i in range(200)}, "--http-port", 0)
    page.open(http_port(process))
    until(lambda: len(page.all("#model-table tbody tr:not(.details)")) == 200)
    assert page.text("#model-count") == "200"
    milliseconds = page.run("""
        const filter = document.getElementById('filter');
        const took = [];
        for (const text of ['m', 'model-1', 'model-17', '', '17', 'ready cpu 199']) {
          const began = performance.now();
          filter.value = text;
          filter.dispatchEvent(new Event('input'));
          document.body.offsetHeight;  // have it laid out
          took.push(performance.now() - began);
        }
        return took;""")
    assert max(milliseconds) < 250, milliseconds
    assert page.text("#model-count") == "1 of 200"
    assert [row.text.split()[0] for row in page.all("#model-table tbody tr") if row.is_displayed()] == ["model-199"]
    page.type("nothing like it", "#filter")
    page.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    assert page.text("#no-models") == "No model passes the filter."


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
    told = open_row("pair")
    for part in (
        "a: float32 [batch, 2]",
        "b: int64 [batch, 3]",
        "p: float32 [batch, 2]",
        "up to 64 rows",
        "ready since",
    ):
        assert part in told
    assert "off, one request at a time: " in open_row("mixing")


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


def test_a_failed_load_stands_at_the_top_with_its_error(page, launch, tmp_path):
    configs = {"broken": "labels: {y: [only-one]}\n"}
    process = launch(
        {"broken": zoo.mixing(), "double": zoo.double()}, "--http-port", 0, "--skip-broken-models", configs=configs
    )
    page.open(http_port(process))
    failed = page.find("#failed")
    assert failed.is_displayed()
    assert "broken/1" in failed.text
    assert "model.yaml: labels.y: 1 names for 2 classes" in failed.text
    assert failed.rect["y"] < page.find("#traffic").rect["y"]
    assert "failed" in page.find("#model-table tbody tr").text


def test_names_and_errors_are_text_whatever_they_hold(page, bare, server):
    port, loads = bare()
    loads.begin(HOSTILE, "1")
    loads.fail(HOSTILE, "1", f"it is broken: {HOSTILE}")
    page.open(port, state="draining")
    until(lambda: page.find("#failed").is_displayed())
    assert f"it is broken: {HOSTILE}" in page.text("#failed")
    assert HOSTILE in page.text("#model-table")
    page.open(server.app.http_port)
    page.model("hostile")
    assert HOSTILE in page.text("#form-inputs legend")
    page.type("[[1, 2, 3]]")
    assert HOSTILE in page.send()
    server.client.predict("slow", {"x": np.full((1, 1), 20, np.float32)}, request_id=HOSTILE)
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
    process = launch(models, "--http-port", 0)
    port = http_port(process)
    page.open(port)
    with Client(process.address) as client:
        for _ in range(5):
            client.predict("double", x)
    until(lambda: (page.fact("OK") or "").startswith("5 "))
    page.model("double")
    page.type("[[7, 7, 7]]")
    process.stop()
    page.wait_for_state("unreachable")
    assert re.fullmatch(r"cannot reach the server since \d\d:\d\d:\d\d", page.text("#state"))
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
    def asked():
        return opened.run(
            "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/api/status')).length"
        )

    until(lambda: asked() > 1)
    opened.hide(True)
    before, began = asked(), time.monotonic()
    until(lambda: time.monotonic() - began > 4.5)  # two of its intervals
    assert asked() <= before + 1  # one may have been under way
    opened.hide(False)
    until(lambda: asked() > before + 2)


# The figures


def test_quantiles_are_those_of_the_values_within_a_bucket(page, server):
    page.open(server.app.http_port)
    bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1]
    values = np.random.default_rng(0).gamma(3, 0.004, 5000)
    counts = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).tolist()
    told = {"bounds": bounds, "counts": counts, "total": 5000, "sum": float(values.sum())}
    for share in (0.5, 0.9, 0.99):
        found = page.module("samples.js", "return m.quantile(a[0], a[1])", told, share)
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


def test_rates_are_differences_and_a_gap_breaks_a_line(page, server):
    page.open(server.app.http_port)
    told = page.module(
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
    assert told["rates"] == [10, 2.5, 12.5]
    assert told["failed"] == [0, pytest.approx(0.2), None]
    assert told["cpu"] == pytest.approx(0.75)
    assert told["series"] == [[102, 10], [104, 10], [154, None], [204, 1]]


# The form


def digit_png(tmp_path, i, inverted=False):
    """Write a digit of the test set as a picture; return its path, its label and what the model is to see."""
    digits = np.load(ROOT / "examples/data/digits_test.npz")
    image = np.round(255 * digits["image"][i]).astype(np.uint8)
    drawn = 255 - image if inverted else image
    return write_png(tmp_path / f"digit{i}.png", drawn.transpose(1, 2, 0)), str(digits["label"][i]), image[None] / 255


@pytest.mark.parametrize(("i", "inverted"), [(0, False), (7, False), (100, True)])
def test_the_picture_of_a_digit_is_read(opened, server, tmp_path, i, inverted):
    path, label, seen = digit_png(tmp_path, i, inverted)
    opened.model("digits")
    opened.picture(path)
    if inverted:
        opened.find("#form input[type=checkbox]").click()
    opened.send()
    assert opened.text(".bars dt") == label
    assert len(opened.all(".bars dt")) == 10
    wanted = server.client.predict("digits", {"image": seen.astype(np.float32)})["probabilities"].max()
    assert number(opened.text(".bars dd.first")) == pytest.approx(wanted, abs=1e-4)
    assert "run on CPU" in opened.text("#answer-body")


def test_a_picture_can_be_dropped_and_left_for_json(opened, tmp_path):
    path, label, _ = digit_png(tmp_path, 3)
    opened.model("digits")
    opened.run(
        """
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(arguments[0])], 'digit.png', { type: 'image/png' }));
        const dropped = new DragEvent('drop', { dataTransfer: transfer, cancelable: true });
        document.querySelector('.drop').dispatchEvent(dropped);""",
        list(path.read_bytes()),
    )
    assert not opened.find("#form textarea").is_displayed()
    opened.send()
    assert opened.text(".bars dt") == label
    opened.find(".drop .plain").click()
    assert opened.find("#form textarea").is_displayed()
    assert opened.send()  # zeros


def test_what_is_no_picture_is_told_at_its_field(opened, tmp_path):
    path = tmp_path / "not-a-picture.png"
    path.write_text("hello")
    opened.model("digits")
    opened.picture(path)
    until(lambda: "not-a-picture.png: the browser cannot read it" in opened.text("#form-inputs .error"))
    opened.find("#send").click()
    until(lambda: opened.run("return document.activeElement.type") == "file")


@pytest.mark.parametrize("channels_first", [True, False])
def test_the_channels_of_a_picture_lie_where_the_model_wants_them(opened, tmp_path, channels_first):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    opened.model("nhwc")
    opened.picture(write_png(tmp_path / "picture.png", image))
    values = opened.module(
        "image.js",
        """
        const file = document.querySelector('#form input[type=file]').files[0];
        const spec = { data_type: 'uint8', shape: a[0] };
        const tensor = m.tensorOf(file, spec, m.RANGES[1], false, document.createElement('canvas'));
        return tensor.then(({ shape, values }) => [shape, [...values]]);""",
        ["batch", 3, 5, 7] if channels_first else ["batch", "height", "width", 3],
    )
    wanted = image.transpose(2, 0, 1) if channels_first else image
    assert values == [[1, *wanted.shape], wanted.ravel().tolist()]


@pytest.mark.parametrize("model", ["nhwc", "gray"])
def test_pictures_keep_their_colours_their_size_and_their_place(opened, server, tmp_path, model):
    height, width = 16, 24
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if model == "gray":
        image[...] = image[..., :1]
        image[0, 0], image[0, 1] = 0, 255  # so that what is drawn needs no stretching
    opened.model(model)
    opened.picture(write_png(tmp_path / "picture.png", image))
    opened.send()
    drawn = opened.run("""
        const canvas = document.querySelector('canvas.drawn');
        const { height, width, data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [height, width, [...data]];""")
    assert drawn[:2] == [height, width]
    np.testing.assert_allclose(np.array(drawn[2]).reshape(height, width, 4)[..., :3], image, atol=1)


@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("0 to 1", (0, 1)),
        ("0 to 255", (0, 255)),
        ("\N{MINUS SIGN}1 to 1", (-1, 1)),
        ("ImageNet mean and deviation", (-2.1179, 2.64)),
    ],
)
def test_values_are_in_the_range_that_is_chosen(opened, tmp_path, name, halves):
    image = np.zeros((9, 9, 3), np.uint8)
    image[:, 5:] = 255
    opened.model("digits")
    opened.picture(write_png(tmp_path / "halves.png", image))
    sent = opened.module(
        "image.js",
        """
        const spec = { data_type: 'float32', shape: ['batch', 3, 9, 9] };
        const range = m.RANGES.find(({ name }) => name === a[0]);
        const file = document.querySelector('#form input[type=file]').files[0];
        const read = (inverted) => m.tensorOf(file, spec, range, inverted, document.createElement('canvas'));
        const both = Promise.all([read(false), read(true)]);
        return both.then((tensors) => tensors.map(({ shape, values }) => [shape, ...values]));""",
        name,
    )
    assert [shape for shape, *_ in sent] == [[1, 3, 9, 9]] * 2
    plain, inverted = (np.array(values).reshape(3, 9, 9) for _, *values in sent)
    assert (plain.min(), plain.max()) == pytest.approx(halves, abs=1e-3)
    assert plain[0, 0, 0] < plain[0, 0, 8]
    np.testing.assert_allclose(plain[:, :, :4], inverted[:, :, 5:])


def test_json_is_sent_as_it_was_typed_and_zeros_are_there_to_begin_with(opened):
    opened.model("double")
    assert opened.find("#form textarea").get_property("value") == "[[0, 0, 0]]"
    opened.type("[[1, 2, 3], [4, 5, 0.25]]")
    opened.send()
    assert opened.text("#answer-body pre").split() == ["2", "4", "6", "8", "10", "0.5"]
    opened.model("int64")
    opened.type("[[9007199254740993, -1]]")
    opened.send()
    assert opened.text("#answer-body pre").split() == ["9007199254740993", "-1"]
    opened.model("text")
    opened.type('[["été", "b"]]')
    opened.send()
    assert opened.text("#answer-body pre").split() == ["été", "b"]


def test_an_empty_field_is_zeros_of_the_right_shape(opened):
    opened.model("pair")
    for area in opened.all("#form textarea"):
        opened.run("arguments[0].value = ''", area)
    opened.send()
    assert [pre.text.split() for pre in opened.all("#answer-body pre")] == [["0", "0"], ["1", "1", "1"]]
    opened.model("text")
    opened.type("")
    assert "text/1" in opened.send()


def test_an_error_stands_at_its_field(opened):
    opened.expected = ["the server responded with a status of 400"]  # the browser's own note of such an answer
    opened.model("pair")
    first, second = opened.all("#form textarea")
    opened.run("arguments[0].value = '[[1, 2]]'; arguments[1].value = '[[1, 2]]'", first, second)
    assert "The request failed." in opened.send()
    assert "INVALID_ARGUMENT (INVALID_REQUEST): inputs.b.shape: input 'b'" in opened.text("#form-error")
    errors = [opened.text(f"[id='{area.get_attribute('aria-describedby')}']") for area in (first, second)]
    assert errors[0] == ""
    assert errors[1].startswith("inputs.b.shape: input 'b' has the shape [batch, 3], not [1, 2]")
    assert [area.get_attribute("aria-invalid") for area in (first, second)] == ["false", "true"]
    assert opened.driver.switch_to.active_element == second
    opened.run("arguments[0].value = '[[1, 2, 3]]'", second)
    opened.send()
    assert opened.text("#form-error") == ""
    assert second.get_attribute("aria-invalid") == "false"


def test_what_is_no_json_is_told_before_it_is_sent(opened):
    opened.model("double")
    opened.type("[[1, 2, 3]")
    opened.find("#send").click()
    until(lambda: opened.text("#form-inputs .error").startswith("this is no JSON: "))
    assert opened.driver.switch_to.active_element == opened.find("#form textarea")


def test_what_is_typed_stays_while_the_page_is_drawn_anew(opened):
    opened.model("double")
    opened.type("[[1, 2, 3]]")
    ups = opened.text("#about")
    until(lambda: opened.text("#about") != ups)
    assert opened.find("#form textarea").get_property("value") == "[[1, 2, 3]]"
    assert opened.find("#form-model").get_property("value") == "double"


# For everybody


def test_the_form_can_be_used_by_keyboard_alone(opened):
    until(lambda: len(opened.all("#form-model option")) == len(MODELS))
    keys = ActionChains(opened.driver)

    def press(*pressed):
        for key in pressed:
            keys.send_keys(key)
        keys.perform()
        return opened.driver.switch_to.active_element

    focused = press(Keys.TAB)
    assert focused.text == "Skip to the content"
    assert focused.rect["y"] >= 0
    for _ in range(60):
        focused = press(Keys.TAB)
        width = opened.run("return getComputedStyle(arguments[0]).outlineWidth", focused)
        assert number(width.removesuffix("px")) >= 2, focused.get_attribute("outerHTML")
        if focused.get_attribute("id") == "form-model":
            break
    press("double")
    assert opened.find("#form-model").get_property("value") == "double"
    press(Keys.TAB)
    assert press(Keys.TAB).tag_name == "textarea"
    keys.key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL)
    press("[[1, 2, 4]]")
    assert press(Keys.TAB).get_attribute("id") == "send"
    press(Keys.ENTER)
    until(lambda: [pre.text.split() for pre in opened.all("#answer-body pre")] == [["2", "4", "8"]])
    assert opened.driver.switch_to.active_element.get_attribute("id") == "send"


BEYOND = """
    const sticksOut = (one) => one.getClientRects().length && one.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.querySelectorAll('main *')].filter((one) => sticksOut(one) && !one.closest('.unseen'));
    return found.map((one) => one.outerHTML.slice(0, 200));"""


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_it_never_scrolls_sideways(page, server, width):
    page.emulate(width=width)
    page.open(server.app.http_port)
    until(lambda: len(page.all(".opener")) == len(MODELS))
    for opener in page.all(".opener"):
        page.run("arguments[0].click()", opener)
    server.client.predict("slow", {"x": np.full((1, 1), 20, np.float32)}, request_id="r" * 128)
    until(lambda: "r" * 128 in page.text("#slow-table"))
    for name in (max(MODELS, key=len), "digits", "hostile"):
        page.model(name)
        page.send()
    assert page.run("return innerWidth") == width
    assert page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    beyond = page.run(BEYOND)
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_either_scheme(page, server, bare, scheme):
    page.emulate(prefers_color_scheme=scheme)
    port, loads = bare()
    loads.begin("broken", "1")
    loads.fail("broken", "1", "it is broken")
    for number_of_port, state in ((port, "draining"), (server.app.http_port, "ready")):
        page.open(number_of_port, state)
        if state == "ready":
            page.model("hostile")
            page.send()
            until(lambda: page.all(".plot text"))
        told = page.contrasts()
        assert len(told) > 40
        assert [text for text in told if text[0] < 4.5] == []
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128) == (scheme == "light")


def test_everything_has_a_name_for_those_who_cannot_see_it(opened):
    opened.model("digits")
    until(lambda: len(opened.all(".opener")) == len(MODELS))
    opened.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = opened.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = {role for role, _ in seen}
    assert {"banner", "main", "navigation", "contentinfo", "status", "table", "region", "combobox", "textbox"} <= roles
    named = {"button", "checkbox", "combobox", "textbox", "searchbox", "image", "img", "region", "table", "link"}
    assert [node for node in seen if node[0] in named and not node[1]] == []
    levels = [int(heading.tag_name[1]) for heading in opened.all("h1, h2, h3, h4") if heading.is_displayed()]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


MOVING = """
    const moves = ({ transitionDuration, animationName }) => transitionDuration !== '0s' || animationName !== 'none';
    const found = [...document.querySelectorAll('*')].filter((one) => moves(getComputedStyle(one)));
    return found.map((one) => one.tagName);"""


def test_it_moves_nothing_for_those_who_asked_for_that(opened):
    opened.model("digits")
    opened.send()
    opened.emulate(prefers_reduced_motion="no-preference")
    assert opened.run(MOVING)
    opened.emulate(prefers_reduced_motion="reduce")
    assert opened.run(MOVING) == []
    assert opened.run("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"
