"""Floods: what hostile callers send, as fast as one process can, until the server closes the connection or time is up.

Each is a function of an address and of seconds, and returns how many of its frames it sent.
"""

import contextlib
import gzip
import multiprocessing
import threading
import time

import numpy as np

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from support import http2

PREDICT, STREAM = "/onnxserve.v1.InferenceService/Predict", "/onnxserve.v1.InferenceService/Stream"
_BURST = 200  # frames, or pairs of them, that are sent at a time
_WIDE_OPEN = http2.setting(http2.INITIAL_WINDOW_SIZE, 2**31 - 1)


def resets(address, seconds):
    """Calls that are opened and reset at once."""
    block = http2.header_block(PREDICT)

    def pair(i):
        reset = http2.frame(http2.RESET, 0, 1 + 2 * i, http2.CANCEL.to_bytes(4, "big"))
        return http2.frame(http2.HEADERS, http2.END_HEADERS, 1 + 2 * i, block) + reset

    return _send(address, seconds, pair)


def pings(address, seconds):
    """Pings."""
    return _send(address, seconds, lambda i: http2.frame(http2.PING, 0, 0, i.to_bytes(8, "big")))


def settings(address, seconds):
    """Settings, each of which is to be acknowledged."""
    return _send(address, seconds, lambda i: http2.frame(http2.SETTINGS, 0, 0, _WIDE_OPEN))


def headers(address, seconds):
    """Calls with 14 kB of metadata and no message."""
    block = http2.header_block(PREDICT, x_long="x" * 14_000)
    return _send(address, seconds, lambda i: http2.frame(http2.HEADERS, http2.END_HEADERS, 1 + 2 * i, block))


def unread(address, seconds):
    """Calls whose answers, of a megabyte each, are not read; the windows of HTTP/2 are open."""
    x = encode("x", np.ones((1, 1), np.float32))
    message = inference_service_pb2.PredictRequest(model="wide", inputs=[x]).SerializeToString()
    opening = http2.frame(http2.WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
    with contextlib.suppress(OSError), http2.Connection(address, _WIDE_OPEN) as connection:
        connection.send(opening + b"".join(http2.call(1 + 2 * i, PREDICT, message) for i in range(_BURST)))
        threading.Event().wait(seconds)
    return _BURST


def unread_streams(address, seconds):
    """Streams of requests whose answers, of a megabyte each, are not read."""
    x = encode("x", np.ones((1, 1), np.float32))
    predict = inference_service_pb2.PredictRequest(model="wide", inputs=[x])
    message = http2.prefixed(inference_service_pb2.StreamRequest(predict=predict).SerializeToString())
    block, streams = http2.header_block(STREAM), range(1, 2 * _BURST, 2)
    opened = b"".join(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block) for stream in streams)
    data = b"".join(http2.frame(http2.DATA, 0, stream, 40 * message) for stream in streams)
    with contextlib.suppress(OSError), http2.Connection(address) as connection:
        connection.send(opened + data)
        threading.Event().wait(seconds)
    return 40 * _BURST


def packed(address, seconds):
    """Messages of 60 kB that would become 60 MiB."""
    message = http2.prefixed(gzip.compress(bytes(60 << 20)), compressed=True)
    block = http2.header_block(PREDICT, grpc_encoding="gzip")

    def frames(i):
        data = [message[at : at + 16_000] for at in range(0, len(message), 16_000)]
        opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1 + 2 * i, block)
        return opened + b"".join(
            http2.frame(http2.DATA, http2.END_STREAM if n == len(data) - 1 else 0, 1 + 2 * i, part)
            for n, part in enumerate(data)
        )

    return _send(address, seconds, frames, burst=1)


@contextlib.contextmanager
def flood(kind, address, processes, seconds):
    """Flood from so many processes while the block runs; gives the result, how much each of them sent."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_nothing, range(processes))  # they are there
        sent = pool.starmap_async(kind, [(address, seconds)] * processes)
        yield sent
        sent.wait(seconds + 60)


def _send(address, seconds, frames, burst=_BURST):
    sent, end = 0, time.monotonic() + seconds
    with contextlib.suppress(OSError), http2.Connection(address) as connection:
        reader = threading.Thread(target=_drop, args=(connection,), daemon=True)
        reader.start()
        while time.monotonic() < end:
            connection.send(b"".join(frames(sent + i) for i in range(burst)))
            sent += burst
    return sent


def _drop(connection):
    with contextlib.suppress(OSError):
        while connection.socket.recv(1 << 18):
            pass


def _nothing(_):
    pass
