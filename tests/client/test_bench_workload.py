import ml_dtypes
import numpy as np
import pytest

from onnxserve import TensorSpec
from onnxserve._bench import workload
from onnxserve._bench.workload import make
from onnxserve._inputs import InputError
from onnxserve.tensor import NUMBERS, decode
from onnxserve.v1 import inference_service_pb2
from support.arrays import same_bits


def spec(name="x", dtype="float32", shape=("batch", 3), batch_axis=0):
    return TensorSpec(name=name, dtype=dtype, shape=shape, labels=(), batch_axis=batch_axis)


def column(*values):
    return np.array(values, np.float32).reshape(-1, 1)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_made_up_inputs_are_what_the_model_takes_in_every_dtype(dtype):
    made = make([spec(dtype=dtype, shape=("batch", 3, 2))], {}, rows=4, sizes={})
    (array,) = made.requests[0].values()
    assert array.shape == (4, 3, 2)
    if dtype == "string":
        assert set(array.ravel()) <= {"a", "b", "c"}
        return
    assert array.dtype == np.dtype(getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype)
    values = array.astype(np.float64)
    assert ((values >= 0) & (values <= 1)).all()
    if array.dtype.kind in "iub":
        assert {*np.concatenate([each["x"].ravel() for each in made.requests]).tolist()} == {0, 1}


def test_made_up_requests_differ_and_are_the_same_each_time():
    one, other = (make([spec()], {}, rows=None, sizes={}).requests for _ in range(2))
    assert len({each["x"].tobytes() for each in one}) == len(one) > 1
    for first, second in zip(one, other, strict=True):
        assert same_bits(first["x"], second["x"])


def test_an_input_without_rows_is_the_same_in_all_requests_so_that_they_can_share_runs():
    made = make([spec(), spec("s", shape=(2,), batch_axis=None)], {}, rows=None, sizes={})
    assert len({each["s"].tobytes() for each in made.requests}) == 1
    assert len({each["x"].tobytes() for each in made.requests}) > 1


def test_rows_lie_along_the_batch_axis_of_each_input():
    made = make([spec(), spec("state", shape=(2, "batch", 5), batch_axis=1)], {}, rows=7, sizes={})
    assert {name: array.shape for name, array in made.requests[0].items()} == {"x": (7, 3), "state": (2, 7, 5)}
    assert made.rows == 7


def test_free_axes_have_the_sizes_given_whichever_input_they_are_in():
    inputs = [
        spec("ids", "int64", ("batch", "seq")),
        spec("mask", "bool", ("batch", "seq")),
        spec("z", shape=("n", None)),
    ]
    made = make(inputs, {}, rows=None, sizes={"seq": 9, "z.1": 4})
    assert [array.shape for array in made.requests[0].values()] == [(1, 9), (1, 9), (1, 4)]


@pytest.mark.parametrize(
    ("shape", "sizes", "says"),
    [
        (("batch", "seq"), {}, "input x: the size of axis seq is free; set it, such as --size seq=16"),
        (("batch", None), {}, "--size x.1=16"),
        (("batch", "seq"), {"sec": 4}, "--size sec=4: unknown axis; the free axes of made-up inputs are: seq"),
        (("batch", 3), {"seq": 4}, "the free axes of made-up inputs are: none"),
        (("batch", 3), {"batch": 4}, "--size batch=4: batch is the axis of rows; use --rows 4"),
    ],
)
def test_a_size_that_is_missing_or_of_no_axis_is_reported_with_its_cure(shape, sizes, says):
    with pytest.raises(InputError) as raised:
        make([spec(shape=shape)], {}, rows=None, sizes=sizes)
    assert says in str(raised.value)


def test_given_inputs_are_sent_whole_without_a_number_of_rows():
    given = column(1, 2, 3)
    made = make([spec(shape=("batch", 1))], {"x": given}, rows=None, sizes={})
    assert (len(made.requests), made.rows, made.made_up) == (1, 3, ())
    assert same_bits(made.requests[0]["x"], given)


def test_given_inputs_are_cut_into_requests_of_so_many_rows_and_what_has_no_rows_is_not():
    inputs = [
        spec(shape=("batch", 1)),
        spec("state", shape=(2, "batch"), batch_axis=1),
        spec("s", shape=(4,), batch_axis=None),
    ]
    given = {"x": column(1, 2, 3, 4, 5), "state": np.arange(10.0).reshape(2, 5), "s": np.arange(4.0)}
    made = make(inputs, given, rows=2, sizes={})
    assert [each["x"].ravel().tolist() for each in made.requests] == [[1, 2], [3, 4]]
    assert [each["state"].tolist() for each in made.requests] == [[[0, 1], [5, 6]], [[2, 3], [7, 8]]]
    assert all(same_bits(each["s"], given["s"]) for each in made.requests)


def test_inputs_that_are_not_given_fit_those_that_are():
    inputs = [spec("ids", "int64", ("batch", "seq")), spec("mask", "int64", ("batch", "seq"))]
    made = make(inputs, {"ids": np.zeros((3, 11), np.int64)}, rows=None, sizes={})
    assert made.made_up == ("mask",)
    assert made.requests[0]["mask"].shape == (3, 11)
    assert len({each["mask"].tobytes() for each in made.requests}) > 1


def test_a_given_scalar_stands_in_every_made_up_request():
    inputs = [spec(), spec("rate", "int64", (), batch_axis=None)]
    made = make(inputs, {"rate": np.array(16000)}, rows=2, sizes={})
    assert all(each["rate"] == 16000 and each["x"].shape == (2, 3) for each in made.requests)


@pytest.mark.parametrize(
    ("inputs", "given", "rows", "says"),
    [
        ([spec(shape=(4, 3))], {}, 2, "--rows 2: no input of the model has a free axis for rows"),
        ([spec(shape=("batch", 1))], {"x": column(1, 2)}, 3, "--rows 3: the arrays given with --input have 2 rows"),
        (
            [spec("a", shape=("batch", 1)), spec("b", shape=("batch", 1))],
            {"a": column(1, 2), "b": column(1)},
            None,
            "differ in their number of rows: a has 2, b has 1",
        ),
    ],
)
def test_rows_that_cannot_be_are_refused(inputs, given, rows, says):
    with pytest.raises(InputError) as raised:
        make(inputs, given, rows=rows, sizes={})
    assert says in str(raised.value)


def test_few_requests_are_kept_ready_where_they_are_large(monkeypatch):
    monkeypatch.setattr(workload, "_MAX_BYTES", 100)
    assert len(make([spec(shape=("batch", 10))], {}, rows=1, sizes={}).requests) == 2
    assert len(make([spec(shape=("batch", 1000))], {}, rows=1, sizes={}).requests) == 1


def test_messages_are_the_requests_with_what_goes_beside_them():
    made = make([spec()], {}, rows=2, sizes={})
    messages = made.messages("m", outputs=["y"], version="3", timeout=1.5)
    for message, inputs in zip(messages, made.requests, strict=True):
        read = inference_service_pb2.PredictRequest.FromString(message)
        assert (read.model, read.version, [*read.outputs]) == ("m", "3", ["y"])
        assert read.timeout.ToTimedelta().total_seconds() == 1.5
        assert same_bits(decode(read.inputs[0]), inputs["x"])
