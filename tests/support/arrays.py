"""Arrays of every element type, and whether two are the same."""

import numpy as np

from onnxserve.tensor import BOOL, STORAGE, STRING, decode
from onnxserve.v1 import tensor_pb2


def random_array(number, shape, rng):
    """Random bits of an element type, as an array that the client accepts."""
    if number == STRING:
        words = np.array(["", "a", "été", "日本", "x" * 300, "\0"], dtype=object)
        return rng.choice(words, shape)
    if number == BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    storage = STORAGE[number]
    size = int(np.prod(shape)) * storage.itemsize
    return decode(tensor_pb2.Tensor(data_type=number, shape=shape, data=rng.bytes(size)))


def same_bits(one, other):
    """Whether two arrays have one shape, one type and the same bits."""
    if one.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
