"""What a request can hold at most, and so what a model may need at least."""

import math
from pathlib import Path

from onnxserve.tensor import STORAGE
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.spec import MAX_TENSORS, TensorSpec

_MAX_MESSAGE_BYTES = 2**31 - 1  # no protocol buffer is larger


def check_inputs(path: Path, inputs: tuple[TensorSpec, ...]) -> None:
    """Check that a request for a model can exist, before one is made up to try it.

    Raises:
        ConfigurationError: the model has more inputs than a request may have, or a single row of them is too large.
    """
    if len(inputs) > MAX_TENSORS:
        raise ConfigurationError(
            f"{path}: it has {len(inputs)} inputs, and a request may have {MAX_TENSORS}; "
            f"export it with inputs of several columns, [batch, columns]"
        )
    sizes = {spec.name: _row_bytes(spec) for spec in inputs}
    row = sum(sizes.values())
    if row > _MAX_MESSAGE_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise ConfigurationError(
            f"{path}: one row of its inputs has {row} bytes, {sizes[largest]} of them in {largest}, and a request "
            f"at most {_MAX_MESSAGE_BYTES}; export it with a free axis where the size is not meant"
        )


def _row_bytes(spec: TensorSpec) -> int:
    """Return the bytes of a row whose free axes have the size 1; a string counts as one."""
    sizes = (size for size in spec.row_of(spec.shape) if isinstance(size, int))
    return math.prod(sizes) * (STORAGE[spec.data_type].itemsize if spec.data_type in STORAGE else 1)
