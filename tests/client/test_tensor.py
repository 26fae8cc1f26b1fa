import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxserve import _wire, tensor
from onnxserve._call import PredictCall
from onnxserve._wire import predict_request
from onnxserve.v1 import inference_service_pb2, tensor_pb2

FOREIGN = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
DTYPES = [
    np.dtype(getattr(ml_dtypes, name) if name in FOREIGN else name) for name in tensor.NUMBERS if name != "string"
]


@st.composite
def arrays(draw):
    """An array of any dtype and shape, of any bits, in either byte order and any memory order."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == np.bool_:
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype).reshape(shape)
    if dtype.name not in FOREIGN and draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    if array.ndim and draw(st.booleans()):
        array = np.flip(array.T, axis=0)
    return array


def bits(array):
    """The array's values as bytes, row-major and little-endian: equal for equal NaNs too."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def sent(array):
    """The Tensor that a server reads from a client's request."""
    request = predict_request(PredictCall(model="m", inputs={"x": array}), "r")
    (read,) = inference_service_pb2.PredictRequest.FromString(request).inputs
    return read


@settings(deadline=None)
@given(arrays())
def test_an_array_comes_back_bit_for_bit(array):
    back = tensor.decode(tensor.encode("x", array))
    assert back.dtype.name == array.dtype.name
    assert back.shape == array.shape
    assert bits(back) == bits(array)


@pytest.mark.parametrize("small_bytes", [-1, _wire._SMALL_BYTES], ids=["by view", "by copy"])
@settings(deadline=None)
@given(array=arrays())
def test_a_request_holds_the_tensors_that_protobuf_would_write(small_bytes, array):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wire, "_SMALL_BYTES", small_bytes)
        assert sent(array) == tensor.encode("x", array)


@settings(deadline=None)
@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.text()))
def test_strings_come_back_in_their_shape(array):
    back = tensor.decode(sent(array))
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


def test_strings_of_numpys_own_type_and_utf8_bytes_are_sent_alike():
    text = tensor.encode("x", np.array([["ä", "b"]]))
    assert text == tensor.encode("x", np.array([["ä".encode(), b"b"]], dtype=object))
    assert [*text.strings] == ["ä".encode(), b"b"]
    assert tensor.decode(text).tolist() == [["ä", "b"]]


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("ä"), ml_dtypes.bfloat16(2)])
def test_a_numpy_scalar_is_sent_as_a_tensor_without_axes(scalar):
    back = tensor.decode(sent(scalar))
    assert back.shape == ()
    assert back.item() == scalar


def test_values_lie_row_major_and_little_endian_on_the_wire():
    message = tensor.encode("x", np.asfortranarray(np.array([[1, 2], [3, 4]], dtype=">u2")))
    assert (message.data, [*message.shape]) == (b"\x01\x00\x02\x00\x03\x00\x04\x00", [2, 2])
    assert message.data_type == tensor_pb2.DATA_TYPE_UINT16


def test_decoded_numbers_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        tensor.decode(tensor.encode("x", np.zeros(2, np.float32)))[0] = 1


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "i4,f4", "float128"])
def test_a_dtype_that_the_protocol_lacks_is_refused(dtype):
    with pytest.raises(TypeError, match=r"the protocol has no type for dtype .*; its types are float32"):
        tensor.encode("x", np.zeros(1, dtype))


def test_an_object_array_of_other_things_than_strings_is_refused():
    with pytest.raises(TypeError, match="str or bytes, not int"):
        tensor.encode("x", np.array(["a", 1], dtype=object))


@pytest.mark.parametrize(
    "message",
    [
        tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT, shape=[2], data=b"1234"),
        tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT, shape=[1], data=b"123"),
        tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_STRING, shape=[2], strings=[b"a"]),
        tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_STRING, shape=[1], strings=[b"\xff"]),
        tensor_pb2.Tensor(shape=[1], data=b"1234"),
    ],
    ids=["too few bytes", "a broken element", "too few strings", "invalid UTF-8", "no type"],
)
def test_a_message_that_contradicts_itself_is_refused(message):
    with pytest.raises(ValueError):
        tensor.decode(message)
