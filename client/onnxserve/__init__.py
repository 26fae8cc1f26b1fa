"""Call an onnxserve server.

    import numpy as np
    import onnxserve

    with onnxserve.Client("localhost:8500") as client:
        image = np.zeros((1, 3, 32, 32), dtype=np.float32)
        prediction = client.predict("digits", {"image": image}, timeout=1.0)
        print(prediction["probabilities"].argmax(axis=-1), prediction.receipt)

AsyncClient has the same calls for asyncio. A call that fails raises a subclass of OnnxserveError.
"""

from importlib.metadata import version as _version

from onnxserve._aio import AsyncClient
from onnxserve._aio_sequence import AsyncModelSequence
from onnxserve._blocking_sequence import ModelSequence
from onnxserve._client import Client
from onnxserve._models import Batching, Condition, InputRule, ModelInfo, RowVerdict, Runtime, TensorSpec
from onnxserve._prediction import Prediction, Receipt
from onnxserve._sequence import State, Stop
from onnxserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidAnswer,
    InvalidArgument,
    ModelRunFailed,
    NotFound,
    OnnxserveError,
    PermissionDenied,
    ResourceExhausted,
    ServersBroke,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

__version__ = _version("onnxserve")
"""The version of the installed package."""

__all__ = [
    "AsyncClient",
    "AsyncModelSequence",
    "Batching",
    "Cancelled",
    "Client",
    "Condition",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "InputRule",
    "Internal",
    "InvalidAnswer",
    "InvalidArgument",
    "ModelInfo",
    "ModelRunFailed",
    "ModelSequence",
    "NotFound",
    "OnnxserveError",
    "PermissionDenied",
    "Prediction",
    "Receipt",
    "ResourceExhausted",
    "RowVerdict",
    "Runtime",
    "ServersBroke",
    "State",
    "Stop",
    "TensorSpec",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "__version__",
]
