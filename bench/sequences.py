"""Sequences: 64 of a recurrent network that finds speech in sound (silero-vad), 8 on each of 8 streams.

Each step is a piece of 32 ms; the server keeps the states. Beside it raw ONNX Runtime runs the same network on rows of
states that nobody has to keep; its part of this module is a process of its own, as in bench.raw.
"""

import functools
import importlib.util
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench import ours, raw, stream_load
from bench.figures import Keys, best_batch, median_ratio
from bench.models import Floats, session
from bench.process import ServerProcess
from bench.stream_load import STREAMS, Rate, Traffic
from onnxserve import tensor
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as pb

SEQUENCES = 64
HOW_TO_GET_THE_NETWORK = "silero-vad is missing, so sequences are not measured: pip install --no-deps silero-vad"

_PER_STREAM = SEQUENCES // STREAMS  # names belong to their stream, so all streams can send the same
_PIECES = 32  # of noise; each sequence goes through them in turn, again and again
_REPOSITORY = Path("build/bench/sequences")
_PATH = _REPOSITORY / "vad" / "1" / "model.onnx"
_CONFIG = """\
state: [{input: state, output: stateN}]
batch_axis: {state: 1, stateN: 1}
shared: [sr]
"""
_RATE = np.array(16_000)  # samples a second
_SAMPLES = 64 + 512  # the end of the piece before, and a piece


def is_possible() -> bool:
    """Whether the network is there."""
    return importlib.util.find_spec("silero_vad") is not None


def measure(runs: int, seconds: float) -> Keys:
    """Step through all sequences, and measure ONNX Runtime itself, `runs` times over for about so long.

    Returns `sequences.vad.c64.{rps,cpu_us}` (of steps), `sequences.vad.onnxruntime.{best_batch,rows_per_s}`, medians,
    and of the runs' ratios the median, `sequences.vad.c64.vs_onnxruntime`.
    """
    print("sequences", file=sys.stderr, flush=True)
    with ours.serve("sequences", repository=write()) as process:
        count = stream_load.prepare(process, TRAFFIC, seconds)
        both = [_measure_both(process, count) for _ in range(runs)]
    stepped, alone = [rate for rate, _ in both], [run for _, run in both]
    best = best_batch(alone)
    rates = [run.rows_per_s[best] for run in alone]
    return {
        "sequences.vad.c64.rps": statistics.median(rate.rps for rate in stepped),
        "sequences.vad.c64.cpu_us": statistics.median(rate.cpu_us for rate in stepped),
        "sequences.vad.onnxruntime.best_batch": best,
        "sequences.vad.onnxruntime.rows_per_s": statistics.median(rates),
        "sequences.vad.c64.vs_onnxruntime": median_ratio([rate.rps for rate in stepped], rates),
    }


def _measure_both(process: ServerProcess, count: int) -> tuple[Rate, raw.RawRun]:
    return stream_load.send(process, TRAFFIC, count), raw.measure_by([sys.executable, "-m", "bench.sequences"])


def write() -> Path:
    """Write the repository of the network; return where it is.

    Raises:
        FileNotFoundError: the network is missing.
    """
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.submodule_search_locations is None:
        raise FileNotFoundError(HOW_TO_GET_THE_NETWORK)
    _PATH.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(spec.submodule_search_locations[0], "data", "silero_vad.onnx"), _PATH)
    (_REPOSITORY / "vad" / "model.yaml").write_text(_CONFIG)
    return _REPOSITORY


@functools.cache
def _sound() -> Floats:
    """Noise [pieces, sequences of a stream, samples], each sequence louder than the one before."""
    noise = np.random.default_rng(0).standard_normal((_PIECES, _PER_STREAM, _SAMPLES), np.float32)
    return noise * np.linspace(0.05, 0.5, _PER_STREAM, dtype=np.float32)[:, None]


def _requests(count: int) -> Sequence[pb.StreamRequest]:
    """One step of each sequence, then the next of each."""
    steps = [_step(piece, sequence) for piece in range(_PIECES) for sequence in range(_PER_STREAM)]
    return [steps[i % len(steps)] for i in range(count)]


def _step(piece: int, sequence: int) -> pb.StreamRequest:
    inputs = {"input": _sound()[piece, sequence, None], "sr": _RATE}
    return pb.StreamRequest(
        predict=pb.PredictRequest(model="vad", inputs=[tensor.encode(name, array) for name, array in inputs.items()]),
        sequence=pb.Sequence(id=str(sequence)),
    )


@functools.cache
def _expected(count: int) -> Floats:
    """The probabilities that ONNX Runtime itself gives, the state handed on from step to step."""
    loaded = session(_PATH)
    state, rows = np.zeros((2, _PER_STREAM, 128), np.float32), []
    for step in range(count // _PER_STREAM):
        fed = {"input": _sound()[step % _PIECES], "sr": _RATE, "state": state}
        output, state = loaded.run(["output", "stateN"], fed)
        rows.append(np.asarray(output, np.float32))
    return np.concatenate(rows)


TRAFFIC = Traffic(requests=_requests, expected=_expected, round=_PER_STREAM)


def _feed(batch: int) -> Mapping[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "input": rng.standard_normal((batch, _SAMPLES), np.float32) / 4,
        "state": rng.standard_normal((2, batch, 128), np.float32) / 4,
        "sr": _RATE,
    }


if __name__ == "__main__":
    print(json.dumps(raw.run_times(session(_PATH), _feed)))
