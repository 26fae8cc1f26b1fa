import pytest

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec, batch_axis, free_axes, parse_input, parse_ranges, parse_sizes

IMAGE = InputSpec("image", "float32", ("batch", 3, 8, 8))
IDS = InputSpec("ids", "int64", ("batch", "time"))
MASK = InputSpec("mask", "bool", ("batch", "time"))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("image=float32[batch,3,8,8]", IMAGE),
        (" ids = int64 [ batch, time ] ", IDS),
        ("rate=int64[]", InputSpec("rate", "int64", ())),
        ("a name:0=string[n]", InputSpec("a name:0", "string", ("n",))),
        ("x=bfloat16[1]", InputSpec("x", "bfloat16", (1,))),
    ],
)
def test_a_description_is_read(text, spec):
    assert parse_input(text) == spec
    assert parse_input(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image", "expected name=dtype"),
        ("=float32[3]", "expected name=dtype"),
        ("image=float32", "expected name=dtype"),
        ("image=float32[3", "expected name=dtype"),
        ("image=float[3]", "unknown dtype 'float'; expected one of float32, "),
        ("image=float32[batch,0]", "invalid axis '0'"),
        ("image=float32[batch,-1]", "invalid axis '-1'"),
        ("image=float32[None,3]", "invalid axis 'None'"),
        ("image=float32[?,3]", "invalid axis '?'"),
        ("image=float32[batch,,3]", "invalid axis ''"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(text, says):
    with pytest.raises(BadRequest, match="input") as caught:
        parse_input(text)
    assert says in str(caught.value)


def test_sizes_and_ranges_are_read():
    assert parse_sizes(["time=16,48", "batch = 1, 2"]) == {"time": (16, 48), "batch": (1, 2)}
    assert parse_ranges(["ids=0:999", "x=-1.5:2e3"]) == {"ids": (0, 999), "x": (-1.5, 2000)}
    assert parse_ranges(["a=false:true", "b=1:1"]) == {"a": (0, 1), "b": (1, 1)}
    assert parse_ranges(["color=red|light green|a=b:c|"]) == {"color": ["red", "light green", "a=b:c", ""]}


@pytest.mark.parametrize("text", ["time", "time=", "=3", "time=3,x", "time=-1,2", "time=1.5,2"])
def test_sizes_that_cannot_be_read_are_refused(text):
    with pytest.raises(BadRequest, match="expected axis=size,size"):
        parse_sizes([text])


@pytest.mark.parametrize("text", ["ids", "ids=", "ids=3", "ids=a:b", "ids=1:", "a|b"])
def test_ranges_that_cannot_be_read_are_refused(text):
    with pytest.raises(BadRequest, match="expected input=low:high"):
        parse_ranges([text])


def test_the_batch_axis_is_the_first_of_the_first_input():
    assert batch_axis([IDS, MASK]) == "batch"
    assert batch_axis([InputSpec("x", "float32", (1, "time"))]) is None
    assert batch_axis([InputSpec("rate", "int64", ())]) is None
    assert batch_axis([]) is None
    assert free_axes([IMAGE, IDS]) == ["batch", "time"]
