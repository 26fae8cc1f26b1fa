"""The Open Inference Protocol's messages, for programs that lack them: run by the Python that has tritonclient.

triton_wire.py encode MODEL: an array (.npy) on stdin to a ModelInferRequest on stdout
triton_wire.py decode: a ModelInferResponse on stdin to the array of its one output on stdout
"""

import io
import sys

import numpy as np
from tritonclient.grpc import service_pb2  # in Triton's environment


def encode(model: str, x: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return bytes(request.SerializeToString())


def decode(answer: bytes) -> bytes:
    response = service_pb2.ModelInferResponse.FromString(answer)
    y = np.frombuffer(response.raw_output_contents[0], np.float32)
    written = io.BytesIO()
    np.save(written, y.reshape(tuple(response.outputs[0].shape)))
    return written.getvalue()


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    wanted = encode(sys.argv[2], np.load(io.BytesIO(given))) if sys.argv[1] == "encode" else decode(given)
    sys.stdout.buffer.write(wanted)
