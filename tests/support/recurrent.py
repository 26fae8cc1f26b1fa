"""A stateful model without ONNX Runtime, whose runs a test makes one at a time: s' = s / 2 + x, y = 3 s'."""

import numpy as np

from onnxserve.tensor import DataType
from onnxserve_server.core import Request, WireTensor
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.scheduling.batch import Slot
from onnxserve_server.spec import BatchPolicy, Feedback, ModelSpec, SequencePolicy, StatePair, TensorSpec

FLOAT = DataType.DATA_TYPE_FLOAT


def column(name):
    return TensorSpec(name=name, data_type=FLOAT, shape=("batch", 1))


X, S, Y, S_OUT = map(column, ("x", "s", "y", "s_out"))


class Session:
    """Computes a run with numpy. Like a real one it is asked for outputs by name."""

    def run(self, feeds, outputs, handle=None):
        state = feeds["s"] / 2 + feeds["x"]
        values = {"y": 3 * state, "s_out": state}
        return [values[name] for name in outputs]


def spec(name="recurrent", version="1", max_live=100, idle=10.0, **policy):
    return ModelSpec(
        name=name,
        version=version,
        inputs=(X, S),
        outputs=(Y, S_OUT),
        batching=BatchPolicy(**{"enabled": True, "max_rows": 4} | policy),
        requested_providers=("cpu",),
        providers=("cpu",),
        state=(StatePair(input=S, output=S_OUT),),
        sequences=SequencePolicy(max_live=max_live, idle=idle),
        feedback=(Feedback(Y, X),),
    )


class ByHand:
    """The model, with no executor: what is submitted waits until run()."""

    def __init__(self, services, **fields):
        self.model = ServedModel(spec(**fields), Session(), services)

    def run(self):
        """Form a batch of what waits, run it, scatter it; returns its rows."""
        assert self.model.load().queued_jobs
        batch = self.model._batcher.take(Slot())
        assert batch is not None
        finished = self.model._runner.run(batch)
        assert finished is not None
        finished.scatter()
        return batch.rows


def request(value, model="recurrent", version="", name="x", **fields):
    """A request of one row."""
    data = np.full((1, 1), value, "<f4").tobytes()
    return Request(model, version, [WireTensor(name, FLOAT, (1, 1), data, ())], **fields)
