"""What a server counts, as Prometheus sees it, against what its callers know."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.request import Request, urlopen

import grpc
import numpy as np
import onnxruntime
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import onnxserve
from onnxserve.v1 import inference_service_pb2 as pb
from onnxserve_server.runtime.providers import CPU, CUDA
from onnxserve_server.telemetry.catalogue import INSTRUMENTS, prometheus_name
from support import zoo
from support.asking import Http, double
from support.otlp import receiver
from support.scraping import needs_prometheus, prometheus
from support.waiting import until

PREDICT = "onnxserve.v1.InferenceService/Predict"
STREAM = "onnxserve.v1.InferenceService/Stream"
ROW = np.ones((1, 3), np.float32)


def get(server, path, **headers):
    with urlopen(Request(f"http://127.0.0.1:{server.app.http_port}{path}", headers=headers), timeout=10) as answer:
        return answer.read().decode()


def samples(server, **totals):
    """{(sample name, labels as a frozenset of pairs): value} of a scrape, once the totals are reached.

    All is counted when the answers are out, so that a caller may be faster: first a request, then the rows of its run,
    and a stream when it has ended (`requests`, `rows`, `calls`).
    """
    names = {
        "requests": "onnxserve_requests_total",
        "rows": "onnxserve_rows_total",
        "calls": "rpc_server_call_duration_seconds_count",
    }

    def scrape():
        families = text_string_to_metric_families(get(server, "/metrics"))
        # To Prometheus an empty label is none.
        found = {
            (one.name, frozenset(label for label in one.labels.items() if label[1])): one.value
            for family in families
            for one in family.samples
        }
        reached = (
            sum(count for (name, _), count in found.items() if name == names[total]) >= least
            for total, least in totals.items()
        )
        return found if all(reached) else None

    return until(scrape)


@pytest.fixture(scope="module")
def scraped(serving, tmp_path_factory):
    """The HTTP port of a server."""
    with serving(zoo.write(tmp_path_factory.mktemp("models"), {"double": zoo.double()}), http_port=0) as server:
        yield Http(server.app.http_port)


def value(found, name, **labels):
    return found.get((name, frozenset(labels.items())), 0.0)


def requests_by_code(found, method=PREDICT):
    """{code: requests} of all models."""
    counts = {}
    for (name, labels), count in found.items():
        attributes = dict(labels)
        if name == "onnxserve_requests_total" and attributes["rpc_method"] == method:
            code = attributes["rpc_response_status_code"]
            counts[code] = counts.get(code, 0) + count
    return counts


def code_of(call):
    """Make a call and return the name of its code."""
    try:
        call()
    except onnxserve.OnnxserveError as error:
        return error.code.name
    return "OK"


def test_requests_are_counted_by_model_version_method_and_code(serve):
    server = serve({"double": zoo.double(), "parse": zoo.parse()}, http_port=0)
    for _ in range(7):
        server.client.predict("double", {"x": ROW})
    with pytest.raises(onnxserve.InvalidArgument):
        server.client.predict("double", {"x": np.ones((1, 4), np.float32)})
    with pytest.raises(onnxserve.ModelRunFailed):
        server.client.predict("parse", {"x": np.array(["no number"], object)})
    with pytest.raises(onnxserve.NotFound):
        server.client.predict("nobody", {"x": ROW})
    list(server.client.stream("double", ({"x": ROW} for _ in range(5))))
    found = samples(server, requests=7 + 3 + 5, rows=7 + 5 + 1, calls=7 + 3 + 1)
    one = {"version": "1", "rpc_method": PREDICT}
    requests = "onnxserve_requests_total"
    assert value(found, requests, model="double", rpc_response_status_code="OK", **one) == 7
    bad = {"rpc_response_status_code": "INVALID_ARGUMENT", "error_type": "INVALID_REQUEST"}
    assert value(found, requests, model="double", **bad, **one) == 1
    failed = {"rpc_response_status_code": "INTERNAL", "error_type": "MODEL_RUN_FAILED"}
    assert value(found, requests, model="parse", **failed, **one) == 1
    other = {"model": "_OTHER", "version": "_OTHER", "rpc_method": PREDICT}
    unknown = {"rpc_response_status_code": "NOT_FOUND", "error_type": "MODEL_NOT_FOUND"}
    assert value(found, requests, **unknown, **other) == 1
    streamed = {"model": "double", "version": "1", "rpc_method": STREAM}
    assert value(found, requests, rpc_response_status_code="OK", **streamed) == 5
    assert value(found, "rpc_server_call_duration_seconds_count", rpc_method=STREAM, rpc_response_status_code="OK") == 1
    of_double = {"model": "double", "version": "1"}
    assert value(found, "onnxserve_request_queue_duration_seconds_count", **of_double) == 12
    assert value(found, "onnxserve_rows_total", **of_double) == 12
    assert value(found, "onnxserve_batch_requests_total", **of_double) == 12
    runs = value(found, "onnxserve_batch_compute_duration_seconds_count", **of_double)
    assert value(found, "onnxserve_batch_rows_count", **of_double) == runs <= 12
    assert value(found, "onnxserve_batch_rows_sum", **of_double) == 12


def test_every_name_is_in_the_catalogue(serve):
    server = serve({"double": zoo.double(), "state": zoo.recurrent()}, {"state": "state: auto\n"}, http_port=0)
    server.client.predict("double", {"x": ROW})
    known = {prometheus_name(one).removesuffix("_total") for one in INSTRUMENTS} | {"target_info"}
    assert {family.name for family in text_string_to_metric_families(get(server, "/metrics"))} <= known


def test_waits_and_runs_are_measured_where_they_happen(serve):
    server = serve({"slow": zoo.slow(), "other": zoo.double()}, {"other": "instances: 2\n"}, http_port=0)
    with server.occupied():
        calls = [server.send("slow", x=np.zeros((rows, 1), np.float32)) for rows in (1, 1, 1, 5)]
        server.wait_for("slow", lambda load: load.queued_jobs == 4)
        found = samples(server)
        assert value(found, "onnxserve_queue_rows", model="slow", version="1") == 8
        assert value(found, "onnxserve_queue_size_bytes", model="slow", version="1") == 32
        assert value(found, "onnxserve_requests_active", model="slow", version="1") == 5
        assert value(found, "onnxserve_rows_active", model="slow", version="1") == 9
        executors = [value(found, "onnxserve_executors", model=model, version="1") for model in ("slow", "other")]
        assert executors == [1, 2]
    for call in calls:
        call.result(10)
    found = samples(server, requests=5, rows=9)
    of_slow = {"model": "slow", "version": "1"}
    assert value(found, "onnxserve_requests_active", **of_slow) == 0
    assert value(found, "onnxserve_rows_active", **of_slow) == 0
    assert value(found, "onnxserve_request_queue_duration_seconds_sum", **of_slow) > 0
    # The run that kept the executor busy was for a caller who left: all of its time was wasted.
    wasted = value(found, "onnxserve_compute_wasted_seconds_total", **of_slow)
    assert 0 < wasted < value(found, "onnxserve_batch_compute_duration_seconds_sum", **of_slow)


def test_limits_are_told_beside_what_they_limit(serve):
    configs = {"double": "batching: {max_queue_bytes: 4321}", "state": "state: auto\nsequences: {max: 77}"}
    server = serve({"double": zoo.double(), "state": zoo.recurrent()}, configs, http_port=0, all_queue_bytes=98765)
    found = samples(server)
    assert value(found, "onnxserve_queue_size_limit_bytes", model="double", version="1") == 4321
    assert value(found, "onnxserve_all_queues_size_limit_bytes") == 98765
    assert value(found, "onnxserve_sequences_limit", model="state", version="1") == 77
    limited = {dict(labels)["model"] for name, labels in found if name == "onnxserve_sequences_limit"}
    assert limited == {"state"}


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_model_on_the_cpu_that_was_to_run_elsewhere_can_be_alerted_on(serve):
    configs = {"elsewhere": "providers: cuda\nallow_cpu_fallback: true"}
    server = serve({"elsewhere": zoo.double(), "double": zoo.double()}, configs, http_port=0)
    found = samples(server)
    on_cpu = {"version": "1", "provider": CPU}
    assert value(found, "onnxserve_model_info", model="elsewhere", provider_requested=CUDA, **on_cpu) == 1
    assert value(found, "onnxserve_model_info", model="double", provider_requested=CPU, **on_cpu) == 1


def test_names_that_callers_make_up_make_no_series(serve):
    server = serve({"double": zoo.double()}, http_port=0)
    server.client.predict("double", {"x": ROW})
    code_of(lambda: server.client.predict("nobody", {"x": ROW}))
    code_of(lambda: server.client.predict("double", {"x": ROW}, version="99"))
    before = set(samples(server, requests=3, rows=1))
    for i in range(500):
        request = pb.PredictRequest(model=f"m{i}", version=str(i), request_id=f"r{i}")
        with pytest.raises(grpc.RpcError):
            server.stub.Predict(request, metadata=[(f"key{i}", f"value{i}"), ("traceparent", f"nonsense{i}")])
    assert set(samples(server, requests=503)) == before


def test_methods_and_paths_that_callers_make_up_make_no_series(serve):
    server = serve({"double": zoo.double()}, http_port=0)
    server.client.predict("double", {"x": ROW})
    http = Http(server.app.http_port)
    nobody = {"model": "nobody", "inputs": {}}
    assert http.predict(nobody)[0] == 404
    before = set(samples(server, requests=2, rows=1))
    with grpc.insecure_channel(server.address) as channel:
        for i in range(20):
            for method in (f"/onnxserve.v1.InferenceService/M{i}", f"/made.up.Service{i}/Predict"):
                with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                    channel.unary_unary(method)(b"", timeout=10)
            assert http.status(f"/nothing{i}") == 404
            assert http.predict(nobody | {"model": f"m{i}", "version": str(i)})[0] == 404
    assert set(samples(server, requests=22)) == before


def test_what_comes_by_http_is_counted_as_a_request_of_the_page_and_not_as_a_call(serve):
    server = serve({"double": zoo.double()}, http_port=0)
    http = Http(server.app.http_port)
    assert http.predict(double(data=[[1, 2, 3]]))[0] == 200
    found = samples(server, requests=1)
    of_page = {"model": "double", "version": "1", "rpc_method": "Page"}
    assert value(found, "onnxserve_requests_total", rpc_response_status_code="OK", **of_page) == 1
    assert value(found, "onnxserve_request_duration_seconds_count", **of_page) == 1
    assert not [name for name, _ in found if name.startswith("rpc_server_call_duration")]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=",
        "application/openmetrics-text; version=1.0.0.0.0",
        "application/openmetrics-text; version=999",
        "text/plain; version=nothing",
        "text/plain; version=1.x",
        ";;,,=",
        "*/*; q=many",
        "",
    ],
)
def test_an_odd_accept_header_gets_the_metrics_all_the_same(scraped, accept):
    status, headers, body = scraped.ask("/metrics", Accept=accept)
    assert status == 200
    assert headers["Content-Type"].startswith(("text/plain", "application/openmetrics-text"))
    assert b"process_uptime_seconds" in body


def test_counts_are_exact_under_load_and_scrapes(serve):
    server = serve({"double": zoo.double()}, http_port=0)
    scraping = threading.Event()

    def scrape():
        while not scraping.is_set():
            samples(server)

    def call(_):
        with onnxserve.Client(server.address, coalesce=False) as client:
            bad = ROW[:, :2]
            return [code_of(partial(client.predict, "double", {"x": ROW if i % 10 else bad})) for i in range(300)]

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with ThreadPoolExecutor(8) as pool:
        codes = [code for answered in pool.map(call, range(8)) for code in answered]
    scraping.set()
    scraper.join()
    assert requests_by_code(samples(server, requests=len(codes))) == {code: codes.count(code) for code in set(codes)}


def test_an_exemplar_leads_to_the_trace(serve):
    with receiver() as collector:
        server = serve({"double": zoo.double()}, http_port=0, otlp_endpoint=collector.endpoint)
        trace = "0af7651916cd43dd8448eb211c80319c"
        request = pb.PredictRequest(model="double", inputs=[onnxserve.tensor.encode("x", ROW)])
        server.stub.Predict(request, metadata=[("traceparent", f"00-{trace}-b7ad6b7169203331-01")])
        samples(server, requests=1)
        text = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        exemplars = [
            sample.exemplar.labels["trace_id"]
            for family in openmetrics(text)
            for sample in family.samples
            if family.name == "onnxserve_request_duration_seconds" and sample.exemplar
        ]
        assert exemplars == [trace]


def test_without_telemetry_nothing_is_counted(serve):
    server = serve({"double": zoo.double()}, http_port=0, telemetry=False)
    server.client.predict("double", {"x": ROW})
    with pytest.raises(Exception, match="404"):
        get(server, "/metrics")
    assert get(server, "/readyz") == "ready\n"


@needs_prometheus
def test_a_real_prometheus_has_the_figures_that_the_client_has(serve, tmp_path):
    server = serve({"double": zoo.double(), "parse": zoo.parse()}, http_port=0)
    target = f"127.0.0.1:{server.app.http_port}"
    codes = []
    for i in range(60):
        codes.append(code_of(lambda: server.client.predict("double", {"x": ROW})))
        if i % 3 == 0:
            codes.append(code_of(lambda: server.client.predict("parse", {"x": np.array(["no number"], object)})))
        if i % 5 == 0:
            codes.append(code_of(lambda: server.client.predict("nobody", {"x": ROW})))
    wanted = {code: codes.count(code) for code in set(codes)}
    samples(server, requests=len(codes))
    with prometheus(tmp_path, target) as query:
        found = until(lambda: query("sum by (rpc_response_status_code) (onnxserve_requests_total)"), 30)
        assert {labels["rpc_response_status_code"]: count for labels, count in found} == wanted
        ((_, count),) = query('onnxserve_request_duration_seconds_count{model="double"}')
        assert count == wanted["OK"]
        ((_, quantile),) = query("histogram_quantile(0.99, sum by (le) (onnxserve_request_duration_seconds_bucket))")
        assert 0 < quantile < 60
