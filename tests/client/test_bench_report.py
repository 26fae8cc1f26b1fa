import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from onnxserve import Batching, ModelInfo, Runtime
from onnxserve._bench import advice, plot
from onnxserve._bench.cpu import Use
from onnxserve._bench.generator import Generator
from onnxserve._bench.load import Arrivals, Callers, Rate
from onnxserve._bench.report import Report
from onnxserve._bench.sample import Recorder
from onnxserve._bench.workload import Workload
from onnxserve.v1.inference_service_pb2 import Receipt

DOCUMENT = Path(__file__).parents[2] / "docs/guides/measure.md"
SVG = "{http://www.w3.org/2000/svg}"


def sample(load, latencies_ms):
    recorder = Recorder()
    for ms in latencies_ms:
        recorder.record(Receipt(batch_rows=2, batch_requests=1, queue_us=100, compute_us=400), ms / 1000)
    return recorder.sample(load, seconds=1.0, rows=2, cpu=Use(0.5, 0.6), complete=True)


def report(samples, name="animals"):
    info = ModelInfo(
        name=name,
        version="3",
        state="READY",
        inputs=(),
        outputs=(),
        batching=Batching(
            enabled=True, reason="", max_rows=8, max_delay_us=0, max_queue_rows=64, max_queue_bytes=1 << 20
        ),
        runtime=Runtime(requested_providers=(), providers=(), instances=1, threads=1, options={}),
        metadata={},
        description="",
    )
    generator = Generator(
        target="localhost:8500",
        credentials=None,
        messages=[b"12345"],
        rows=2,
        timeout=1.0,
        stream=False,
        warm_up=0.0,
        seconds=1.0,
    )
    return Report(
        info=info,
        workload=Workload(requests=({"x": np.zeros((2, 3), np.float32)},), rows=2, made_up=("x",)),
        generator=generator,
        limit_ms=None,
        samples=samples,
        best=advice.best(samples, info, None),
        interrupted=False,
    )


SAMPLES = [sample(Callers(1), [1, 1, 2]), sample(Callers(4), [2, 2, 3, 4]), sample(Callers(16), [5, 700, 8, 9, 10])]
NOTHING = sample(Callers(64), [])


def test_the_json_has_every_load_and_what_was_measured():
    data = json.loads(json.dumps(report([*SAMPLES, NOTHING]).to_dict()))
    assert data.keys() == {
        "time",
        "versions",
        "machine",
        "target",
        "model",
        "request",
        "settings",
        "loads",
        "best",
        "cautions",
        "interrupted",
    }
    assert data["request"] == {
        "inputs": {"x": "float32[2, 3]"},
        "made_up": ["x"],
        "rows": 2,
        "bytes": 5,
        "different": 1,
    }
    assert [load["concurrency"] for load in data["loads"]] == [1, 4, 16, 64]
    first, nothing = data["loads"][0], data["loads"][-1]
    assert first["latency_ms"].keys() == {"mean", "p50", "p90", "p99", "max"}
    assert first["runs"] == {
        "rows": 2,
        "most_rows": 2,
        "requests": 1,
        "queue_us": 100,
        "batch_wait_us": 0,
        "compute_us": 400,
    }
    assert (first["requests"], first["succeeded"], first["rows_per_second"]) == (3, 3, 6)
    assert (first["caller_cpu"], first["machine_cpu"]) == (0.5, 0.6)
    assert nothing["succeeded"] == 0
    assert (nothing["latency_ms"], nothing["runs"], nothing["rows_in_server"]) == (None, None, None)
    assert data["best"]["concurrency"] == 1
    assert data["best"]["rows_in_server"] == first["rows_in_server"] == pytest.approx(6 * 500e-6)
    assert data["model"]["version"] == "3"


def test_every_key_of_the_json_is_documented():
    data = json.loads(json.dumps(report(SAMPLES).to_dict()))
    section = DOCUMENT.read_text()
    load = data["loads"][0]
    parts = (data, data["request"], data["settings"], data["best"], load, load["latency_ms"], load["runs"])
    assert {key for part in parts for key in part if f"`{key}`" not in section} == set()


def test_the_json_of_rates_has_their_arrivals():
    data = report([sample(Rate(5.0, Arrivals.CONSTANT), [1] * 5), sample(Rate(9), [1] * 9)]).to_dict()
    assert [
        (each["rate"], each["arrivals"], each["concurrency"]) for each in json.loads(json.dumps(data))["loads"]
    ] == [
        (5, "constant", None),
        (9, "poisson", None),
    ]


def places(svg, name):
    """The points of a line, as (x, y)."""
    (group,) = (each for each in svg.iter(f"{SVG}g") if each.get("class") == name)
    (line,) = group.iter(f"{SVG}polyline")
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


def test_the_svg_has_a_point_for_each_load_and_percentile_in_its_place():
    svg = ElementTree.fromstring(plot.svg(report([*SAMPLES, NOTHING])))
    _, _, width, height = map(float, svg.get("viewBox").split())
    p50, p99 = places(svg, "p50"), places(svg, "p99")
    assert len(p50) == len(p99) == len([*svg.iter(f"{SVG}circle")]) / 2 == 3
    for (x, y), (same_x, above) in zip(p50, p99, strict=True):
        assert x == same_x  # one load has one throughput
        assert 0 < above < y < height  # more milliseconds are further up
        assert x < width
    assert [x for x, _ in p50] == sorted(x for x, _ in p50)
    marks = [text.text for text in svg.iter(f"{SVG}text") if text.get("class") == "load"]
    assert marks == ["1 caller", "4 callers", "16 callers"]


def test_the_picture_is_for_light_and_dark():
    for text in (plot.svg(report(SAMPLES)), plot.page(report(SAMPLES))):
        assert "@media (prefers-color-scheme: dark)" in text


def test_names_stand_in_the_picture_as_they_are():
    svg = ElementTree.fromstring(plot.svg(report(SAMPLES, name="<b>&\"'")))
    assert svg.find(f"{SVG}title").text.startswith("<b>&\"' version 3")
    assert "<b>" not in plot.page(report(SAMPLES, name="<b>"))


class _Page(HTMLParser):
    """Counts tags, and fails where one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.links = [], 0, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)
        self.rows += tag == "tr"
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_by_itself_and_has_the_table():
    text = plot.page(report([*SAMPLES, NOTHING]))
    page = _Page(text)
    assert page.rows == 1 + 4
    assert page.links == []
    assert not re.search(r"@import|url\(", text)
    assert "Best of these: 1 caller" in text


@pytest.mark.parametrize("samples", [[], [NOTHING], [SAMPLES[0]]], ids=["none", "no answer", "one"])
@pytest.mark.parametrize("suffix", ["svg", "html", "png"])
def test_a_picture_of_next_to_nothing_is_still_one(tmp_path, samples, suffix):
    path = tmp_path / f"plot.{suffix}"
    plot.write(path, report(samples))
    if suffix == "svg":
        ElementTree.fromstring(path.read_text())
    elif suffix == "html":
        _Page(path.read_text())
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_png_opens_and_is_no_empty_picture(tmp_path):
    from matplotlib.image import imread

    plot.write(tmp_path / "plot.png", report(SAMPLES))
    pixels = imread(tmp_path / "plot.png")
    assert pixels.ndim == 3
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.01


@pytest.mark.parametrize(
    ("highest", "last", "number"), [(1, 1, 6), (9, 10, 6), (8000, 8000, 5), (0.3, 0.3, 4), (2e6, 2e6, 5)]
)
def test_the_ticks_of_throughput_are_round_and_hold_all(highest, last, number):
    ticks = plot._ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(last)
    assert len(ticks) == number


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.7, 30, [0.5, 1, 2, 5, 10, 20, 50]),
        (1, 1, [0.5, 1, 2]),
        (1.5, 1.6, [1, 2]),
        (0.004, 0.012, [0.002, 0.005, 0.01, 0.02]),
    ],
)
def test_the_ticks_of_latency_are_one_two_and_five_around_it(low, high, ticks):
    assert plot._log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("name", "says"),
    [("plot.pdf", "must end with one of .svg, .html, .png"), ("absent/plot.svg", "is not a directory")],
)
def test_a_picture_that_cannot_be_written_is_refused_beforehand(tmp_path, name, says):
    with pytest.raises(ValueError, match=says):
        plot.check(tmp_path / name)
