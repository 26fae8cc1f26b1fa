"""Traces and logs, against an OTLP receiver: who finds what by a caller's trace id."""

import itertools
import json
import random
import socket
import time

import grpc
import numpy as np
import psutil
import pytest

import onnxserve
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as pb
from support import zoo
from support.asking import Http
from support.otlp import attributes, receiver
from support.waiting import until

ROW = np.ones((1, 3), np.float32)
HOPS = ["receive", "admit", "queue", "batch", "run", "scatter", "reply"]
SERVER = 2  # SPAN_KIND_SERVER
ERROR = 2  # STATUS_CODE_ERROR


def traceparent(sampled=True):
    """A caller's trace: its id, its span's id, and the header that carries them."""
    trace, span = f"{random.getrandbits(128) | 1:032x}", f"{random.getrandbits(64) | 1:016x}"
    return trace, span, ("traceparent", f"00-{trace}-{span}-{'01' if sampled else '00'}")


def predict(server, header, model="double", request_id="", **inputs):
    request = pb.PredictRequest(model=model, request_id=request_id)
    request.inputs.extend(encode(name, np.asarray(array)) for name, array in (inputs or {"x": ROW}).items())
    return server.stub.Predict(request, metadata=[header] if header else [], timeout=30)


@pytest.fixture
def collector():
    with receiver() as kept:
        yield kept


def test_a_trace_id_is_in_the_span_the_batch_and_the_log_of_its_request(serve, collector):
    server = serve({"parse": zoo.parse()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    trace, parent, header = traceparent()
    with pytest.raises(grpc.RpcError, match="INTERNAL"):
        predict(server, header, "parse", "the-one", x=np.array(["not a number"], object))
    span = until(lambda: next((one for one in collector.spans if one.kind == SERVER), None))
    batch = until(lambda: next((one for one in collector.spans if one.name == "onnxserve.batch"), None))
    record = until(lambda: next((one for one in collector.records if one.trace_id), None))
    assert span.trace_id.hex() == trace
    assert span.parent_span_id.hex() == parent
    assert span.name == attributes(span)["rpc.method"] == "onnxserve.v1.InferenceService/Predict"
    assert attributes(span)["rpc.response.status_code"] == "INTERNAL"
    assert attributes(span)["onnxserve.request_id"] == "the-one"
    assert [(link.trace_id, link.span_id) for link in batch.links] == [(span.trace_id, span.span_id)]
    assert record.trace_id.hex() == trace
    assert attributes(record)["request_id"] == "the-one"


def test_a_span_has_the_seven_hops_in_their_order(serve, collector):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    before = time.time_ns()
    predict(server, traceparent()[2])
    span = until(lambda: next((one for one in collector.spans if one.kind == SERVER), None))
    after = time.time_ns()  # the span ends when the answer is out: its caller may be faster
    assert [event.name for event in span.events] == HOPS
    times = [event.time_unix_nano for event in span.events]
    slack = 2_000_000  # ns: receipts count in whole microseconds, and clocks are read apart
    assert all(later >= earlier - slack for earlier, later in itertools.pairwise(times))
    assert before - slack <= span.start_time_unix_nano <= span.end_time_unix_nano <= after + slack
    found = attributes(span)
    assert (found["onnxserve.model"], found["onnxserve.version"], found["onnxserve.batch.rows"]) == ("double", "1", 1)


def test_a_batch_links_to_all_its_requests(serve, collector):
    server = serve({"slow": zoo.slow()}, otlp_endpoint=collector.endpoint, trace_ratio=0, inline_us=0)
    headers = [traceparent() for _ in range(5)]
    with server.occupied():
        calls = []
        for _, _, header in headers:
            request = pb.PredictRequest(model="slow", inputs=[encode("x", np.zeros((1, 1), np.float32))])
            calls.append(server.stub.Predict.future(request, metadata=[header, ("tracestate", "vendor=1")]))
        server.wait_for("slow", lambda load: load.queued_rows == 5)
    for call in calls:
        call.result(10)
    batch = until(lambda: next((one for one in collector.spans if len(one.links) == 5), None))
    assert {link.trace_id.hex() for link in batch.links} == {trace for trace, _, _ in headers}
    assert {span.trace_state for span in collector.spans if span.trace_id == batch.trace_id} == {"vendor=1"}


def test_callers_decide_and_the_others_are_drawn(serve, collector):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0.5)
    predict(server, traceparent(sampled=False)[2])
    for _ in range(400):
        predict(server, None)
    trace = traceparent()
    predict(server, trace[2])
    until(lambda: any(one.trace_id.hex() == trace[0] for one in collector.spans))
    spans = [one for one in collector.spans if one.kind == SERVER]
    drawn = [one for one in spans if not one.parent_span_id]
    assert len(spans) == len(drawn) + 1
    assert 130 < len(drawn) < 270  # 400 draws at one half: five deviations of 10 and some
    # Whoever samples by the trace id itself, at the same ratio, keeps the same traces.
    assert all(int(one.trace_id.hex(), 16) & (2**64 - 1) < 2**63 for one in drawn)


def test_requests_of_a_stream_are_traced_one_by_one(serve, collector):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    trace, parent, header = traceparent()
    requests = [
        pb.StreamRequest(predict=pb.PredictRequest(model="double", request_id=str(i), inputs=[encode("x", ROW)]))
        for i in range(3)
    ]
    list(server.stub.Stream(iter(requests), metadata=[header]))
    spans = until(lambda: found if len(found := [s for s in collector.spans if s.kind == SERVER]) == 3 else None)
    assert {(one.trace_id.hex(), one.parent_span_id.hex()) for one in spans} == {(trace, parent)}
    assert sorted(attributes(one)["onnxserve.request_id"] for one in spans) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "double", "inputs": {"x": {"data": [[1, 2, 3]]}}}, 200),
        ({"model": "double", "inputs": {"x": {"data": [[1]]}}}, 400),
        ({"model": "nobody", "inputs": {}}, 404),
        ({"model": "parse", "inputs": {"x": {"data": ["not a number"]}}}, 500),
    ],
)
def test_a_request_by_http_has_a_span_of_http(serving, collector, tmp_path, body, status):
    root = zoo.write(tmp_path, {"double": zoo.double(), "parse": zoo.parse()})
    trace, parent, header = traceparent()
    with serving(root, otlp_endpoint=collector.endpoint, trace_ratio=0, http_port=0) as server:
        got, answer = Http(server.app.http_port).predict(body | {"request_id": "by-http"}, **dict([header]))
        assert got == status
        span = until(lambda: next((one for one in collector.spans if one.kind == SERVER), None))
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    found = attributes(span)
    assert span.name == "POST /api/predict"
    assert (found["http.request.method"], found["http.route"], found["url.scheme"]) == ("POST", "/api/predict", "http")
    assert found["url.path"] == "/api/predict"
    assert found["http.response.status_code"] == status
    assert found.get("error.type") == answer.get("reason")
    assert found["onnxserve.request_id"] == "by-http"
    assert not [name for name in found if name.startswith("rpc.")]
    assert (span.status.code == ERROR) == (status >= 500)
    if status == 200:
        assert [event.name for event in span.events] == HOPS


def test_metrics_are_pushed_and_once_more_at_the_end(launch, collector):
    process = launch({"double": zoo.double()}, "--otlp-endpoint", collector.endpoint, "--otlp-interval", "0.2")
    with grpc.insecure_channel(process.address) as channel:
        request = pb.PredictRequest(model="double", inputs=[encode("x", ROW)])
        call = channel.unary_unary("/onnxserve.v1.InferenceService/Predict")
        for _ in range(5):
            call(request.SerializeToString())
    until(lambda: collector.latest("onnxserve.requests"), 30)
    assert process.stop()[0] == 0
    (point,) = collector.latest("onnxserve.requests").sum.data_points
    assert point.as_double == 5
    assert attributes(point)["rpc.response.status_code"] == "OK"
    assert "error.type" not in attributes(point)
    assert collector.latest("onnxserve.all_queues.size.limit").gauge.data_points[0].as_double > 0
    (point,) = collector.latest("onnxserve.request.duration").histogram.data_points
    assert point.count == sum(point.bucket_counts) == 5
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    resource = {
        one.key: one.value.string_value for one in collector.metrics[-1].resource_metrics[0].resource.attributes
    }
    assert resource["service.name"] == "onnxserve"


SECRETS = {"text": "payload-3f9a", "token": "Bearer token-77c1", "name": "made-up-name-51d0"}


@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_payload_and_no_token_is_ever_told(launch, collector, level):
    """Strings that a kernel quotes, tensors that do not fit, and metadata: none is in the log or what is pushed."""
    flags = ("--otlp-endpoint", collector.endpoint, "--log-level", level, "--log-format", "json", "--trace-ratio", "1")
    process = launch({"parse": zoo.parse(), "double": zoo.double()}, *flags)
    with grpc.insecure_channel(process.address) as channel:
        call = channel.unary_unary("/onnxserve.v1.InferenceService/Predict")
        metadata = [("authorization", SECRETS["token"]), ("x-api-key", SECRETS["token"]), traceparent()[2]]
        requests = [
            pb.PredictRequest(model="parse", inputs=[encode("x", np.array([SECRETS["text"]], object))]),
            pb.PredictRequest(model="double", inputs=[encode("x", np.array([[SECRETS["text"]] * 3], object))]),
            pb.PredictRequest(model="double", inputs=[encode(SECRETS["name"], ROW)]),
            pb.PredictRequest(model="double", outputs=[SECRETS["name"]], inputs=[encode("x", ROW)]),
        ]
        codes = []
        for message in [*(request.SerializeToString() for request in requests), b"\xff" + SECRETS["text"].encode()]:
            with pytest.raises(grpc.RpcError) as refused:
                call(message, metadata=metadata)
            codes.append(refused.value.code().name)
    assert codes == ["INTERNAL", *["INVALID_ARGUMENT"] * 4]
    assert process.stop()[0] == 0
    log = process.log.read_text()
    pushed = "".join(str(one) for one in [*collector.traces, *collector.metrics, *collector.logs])
    assert "INTERNAL" in log
    assert "INTERNAL" in pushed
    for secret in SECRETS.values():
        assert secret.split()[-1] not in log
        assert secret.split()[-1] not in pushed
    for line in log.splitlines():
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()


@pytest.fixture(params=["refusing", "down", "silent"])
def bad_endpoint(request):
    """An endpoint that refuses, one that nobody listens on, and one that accepts connections but never answers."""
    if request.param == "refusing":
        with receiver(refuse=grpc.StatusCode.UNAVAILABLE) as kept:
            yield kept.endpoint
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if request.param == "down":
            listener.close()
        yield f"http://127.0.0.1:{port}"


def answered(client, count):
    """Ask so many times, and count the right answers."""
    answers = client.stream("double", ({"x": ROW} for _ in range(count)))
    return sum(np.array_equal(answer["y"], 2 * ROW) for answer in answers)


def test_a_collector_that_is_away_harms_nobody(launch, bad_endpoint):
    flags = ("--otlp-endpoint", bad_endpoint, "--otlp-interval", "0.2", "--trace-ratio", "1", "--drain-timeout", "1")
    launched = time.monotonic()
    process = launch({"double": zoo.double()}, *flags)
    resident = psutil.Process(process.popen.pid).memory_info
    with onnxserve.Client(process.address) as client:
        assert answered(client, 5_000) == 5_000  # more spans than may wait
        before = resident().rss
        assert answered(client, 15_000) == 15_000
        grown = resident().rss - before
    assert grown < 12 << 20  # 800 bytes a request; a span takes some thousand
    began = time.monotonic()
    assert process.stop()[0] == 0
    assert time.monotonic() - began < 30
    minutes = int((time.monotonic() - launched) / 60)
    log = process.log.read_text()
    warnings = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line]
    # The first, one for all others of each minute that passes, and at the end how many more.
    assert len(warnings) <= 2 + minutes, warnings
    assert all("--otlp-endpoint" in line for line in warnings)
    assert f"sending the last telemetry to {bad_endpoint}" in log
    assert log.splitlines()[-1].endswith("stopped")
