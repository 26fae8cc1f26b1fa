"""Messages that are compressed: refused, or unpacked within bounds, whatever they would become."""

import gzip
import json

import grpc
import numpy as np
import pytest

from onnxserve.errors import from_rpc_error
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from support import http2, zoo
from support.asking import Http, double

PREDICT, STREAM = "/onnxserve.v1.InferenceService/Predict", "/onnxserve.v1.InferenceService/Stream"
GET_MODEL = "/onnxserve.v1.ModelService/GetModel"
MIB = 1 << 20
MODELS = {"double": zoo.double()}
SETTINGS = {"http_port": 0}


def request(rows):
    """Zeros for the model "double", which compress well."""
    x = encode("x", np.zeros((rows, 3), np.float32))
    return inference_service_pb2.PredictRequest(model="double", inputs=[x])


@pytest.fixture(scope="module")
def with_gzip(serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS)
    with serving(root, http_port=0, compression="gzip", compression_ratio=20, max_message_bytes=4 * MIB) as running:
        yield running


def call(server, method, message, encoding):
    """Call once with a message that is compressed; return code, reason and details."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(method).future(message, compression=encoding, timeout=60)
        error = call.exception()
        return call.code(), from_rpc_error(error).reason if error else "", call.details()


@pytest.mark.parametrize("method", [PREDICT, GET_MODEL, "/grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_refused_and_the_cure_named(server, method, encoding):
    code, reason, details = call(server, method, request(1000).SerializeToString(), encoding)
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "ENCODING_NOT_SUPPORTED")
    assert "--compression gzip" in details


def test_a_refusal_says_which_encodings_are_accepted(server):
    message = http2.prefixed(gzip.compress(request(1).SerializeToString()), compressed=True)
    with http2.Connection(server.address) as connection:
        opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(PREDICT, grpc_encoding="gzip"))
        connection.send(opened + http2.frame(http2.DATA, http2.END_STREAM, 1, message))
        ends = (payload for kind, flags, _, payload in connection.frames() if kind == http2.HEADERS and flags & 1)
        assert b"grpc-accept-encoding\x08identity" in next(ends)


def test_a_stream_goes_on_after_a_compressed_message(server):
    message = inference_service_pb2.StreamRequest(predict=request(1000)).SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        answers = channel.stream_stream(STREAM)(iter((message, message)), compression=grpc.Compression.Gzip, timeout=60)
        errors = [inference_service_pb2.StreamResponse.FromString(answer).error for answer in answers]
    assert [error.code for error in errors] == 2 * [grpc.StatusCode.UNIMPLEMENTED.value[0]]


def test_gzip_is_taken_within_the_ratio_where_it_is_allowed(with_gzip):
    varied = encode("x", np.random.default_rng(0).random((100, 3), np.float32))
    small = inference_service_pb2.PredictRequest(model="double", inputs=[varied]).SerializeToString()
    assert call(with_gzip, PREDICT, small, grpc.Compression.Gzip)[0] is grpc.StatusCode.OK
    assert call(with_gzip, GET_MODEL, b"\x0a\x06double", grpc.Compression.Gzip)[0] is grpc.StatusCode.OK
    code, reason, details = call(with_gzip, PREDICT, request(100_000).SerializeToString(), grpc.Compression.Gzip)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "--compression-ratio" in details


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-9],
        lambda packed: packed[:30] + b"\0" * 30,
        lambda packed: gzip.compress(b"") + packed,
        lambda packed: gzip.compress(b"") + b"more",
    ],
    ids=["cut short", "not its end", "two members", "bytes after it"],
)
def test_gzip_that_is_spoilt_is_the_callers_fault(with_gzip, spoil):
    with grpc.insecure_channel(with_gzip.address) as channel:
        packed = gzip.compress(np.random.default_rng(0).bytes(1000))
        call = channel.unary_unary(PREDICT).future(spoil(packed), timeout=60)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_compressed_bodies_by_http_are_refused_and_the_cure_named(server, encoding):
    http = Http(server.app.http_port)
    status, error = http.predict(gzip.compress(b"{}"), Content_Encoding=encoding)
    assert (status, error["reason"]) == (415, "ENCODING_NOT_SUPPORTED")
    assert "--compression gzip" in error["message"]


def test_gzip_by_http_is_taken_within_the_ratio_where_it_is_allowed(with_gzip):
    http = Http(with_gzip.app.http_port)
    body = json.dumps(double(data=[[1, 2, 3]])).encode()
    assert http.predict(gzip.compress(body), Content_Encoding="gzip")[0] == 200
    status, error = http.predict(gzip.compress(b" " * MIB), Content_Encoding="gzip")
    assert (status, error["reason"]) == (413, "TOO_LARGE")
    assert "--compression-ratio" in error["message"]
