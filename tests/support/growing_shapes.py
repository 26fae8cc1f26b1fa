"""Steps by which a graph grows: what reads sizes, changes shapes, and picks and writes by index."""

import numpy as np
from onnx import numpy_helper

from support.growing import FLOAT, INT64
from support.growing_values import axes_of, number

TARGETS = ((-1,), (0, -1), (-1, 1), (1, -1), (-1, 2), (2, -1), (-1, 4), (0, 0, -1), (0, 2, -1), (-1, 2, 2), (0, -1, 2))
FAR = 2**31 - 1
SLICES = ((0, FAR, 1), (0, 1, 1), (1, FAR, 1), (-1, -FAR, -1), (0, -1, 1), (-2, FAR, 1), (0, FAR, 2), (-1, FAR, 1))


def unsqueezed(g, value, k):
    more, attributes = axes_of(g, 13, k)
    return g.add("Unsqueeze", [value.name, *more], **attributes)[0]


def numbers(g, count=None):
    """A vector of whole numbers that are not 0."""

    def fits(v):
        return v.rank == 1 and not v.is_free(0) and count in (None, len(v.example)) and all(map(np.all, v.runs))

    return g.pick(INT64, where=fits).name


def row_numbers_of(g, value):
    count = g.add("Gather", [g.add("Shape", [value.name])[0].name, g.constant(np.int64(0))])[0]
    return g.add("Range", [g.constant(np.int64(0)), count.name, g.constant(np.int64(1))])[0]


def reshape(g):
    to = g.constant(np.array(g.some(*TARGETS))) if g.rng.random() < 0.5 else numbers(g)
    g.add("Reshape", [g.pick(g.some(FLOAT, INT64)).name, to])


def flatten(g):
    value = g.pick()
    g.add("Flatten", [value.name], axis=int(g.rng.integers(-value.rank, value.rank + 1)))


def squeeze(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    more, attributes = axes_of(g, 13, g.axis(value))
    g.add("Squeeze", [value.name, *more], **attributes)


def unsqueeze(g):
    value = g.pick(g.some(FLOAT, INT64), where=lambda v: v.rank < 4)
    unsqueezed(g, value, g.axis(value, 1))


def expand(g):
    g.add("Expand", [g.pick(g.some(FLOAT, INT64)).name, numbers(g)])


def tile(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    by = g.constant(g.rng.integers(1, 3, value.rank)) if g.rng.random() < 0.5 else numbers(g, value.rank)
    g.add("Tile", [value.name, by])


def concat(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    other = g.pick(value.kind, where=lambda v: v.rank == value.rank)
    g.add("Concat", [value.name, other.name], axis=g.axis(value))


def shape_of_parts(g):
    parts = [numbers(g, 1) if g.rng.random() < 0.6 else g.constant(np.array([g.some(-1, 1, 2, 4)])) for _ in range(2)]
    g.add("Concat", parts, axis=0)


def split(g):
    value, count = g.pick(g.some(FLOAT, INT64), 1), g.some(1, 2)
    g.add("Split", [value.name], count, axis=g.axis(value), **({"num_outputs": count} if g.opset >= 18 else {}))


def cut(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    start, end, step = [g.constant(np.array([each])) for each in g.some(*SLICES)]
    if g.rng.random() < 0.4:
        start, end, step = g.constant(np.array([0])), numbers(g, 1), g.constant(np.array([1]))
    g.add("Slice", [value.name, start, end, g.constant(np.array([g.axis(value)])), step])


def pad(g):
    value = g.pick(FLOAT, 1)
    pads = np.zeros(2 * value.rank, np.int64)
    pads[g.rng.integers(len(pads))] = g.some(1, -1)
    g.add("Pad", [value.name, g.constant(pads)], mode=g.some("constant", "edge", "reflect"))


def gather(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    index = g.constant(g.some(np.int64(0), np.array([-1, 0]))) if g.rng.random() < 0.5 else g.pick(INT64).name
    g.add("Gather", [value.name, index], axis=g.axis(value))


def gather_elements(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    g.add("GatherElements", [value.name, g.pick(INT64, 1).name], axis=g.axis(value))


def gather_nd(g):
    value, index = g.pick(FLOAT, 1).name, g.pick(INT64, 1).name
    g.add("GatherND", [value, index], **({"batch_dims": g.some(0, 0, 1)} if g.opset >= 12 else {}))


def scatter(g):
    value, index, k = g.pick(FLOAT, 1), g.pick(INT64, 1).name, {}
    read, write = g.some(("GatherElements", "ScatterElements"), ("GatherND", "ScatterND"))
    k = {"axis": g.axis(value)} if read == "GatherElements" else {}
    updates = g.add("Neg", [g.add(read, [value.name, index], **k)[0].name])[0]
    g.add(write, [value.name, index, updates.name], **k)


def one_hot(g):
    index = g.pick(INT64)
    values = g.constant(np.float32([0, 1]))
    g.add("OneHot", [index.name, number(g), values], axis=int(g.rng.integers(-index.rank - 1, index.rank + 1)))


def counted(g):
    g.add("Range", [g.constant(np.int64(0)), number(g), g.constant(np.int64(1))])


def filled(g):
    element = numpy_helper.from_array(np.array([g.some(np.float32(1), np.int64(1))]))
    g.add("ConstantOfShape", [numbers(g)], value=element)


def shape(g):
    (sizes,) = g.add("Shape", [g.pick(g.some(FLOAT, INT64), 1).name])
    k = int(g.rng.integers(len(sizes.example)))
    g.add("Gather", [sizes.name, g.constant(g.some(np.int64(k), np.array([k])))], axis=0)


def size(g):
    g.add("Size", [g.pick(g.some(FLOAT, INT64)).name])


def row_numbers(g):
    numbers = row_numbers_of(g, g.pick(FLOAT, 1))
    unsqueezed(g, numbers, g.some(0, -1))


def own_element(g):
    """Of each row the element that an index tells, as exporters write it: with the row's number before the index."""
    value, index = g.pick(FLOAT, 2), g.pick(INT64, 1)
    rows = unsqueezed(g, row_numbers_of(g, value), -1)
    at = g.add("Concat", [rows.name, index.name], axis=-1)[0].name
    (picked,) = g.add("GatherND", [value.name, at])
    g.add("ScatterND", [value.name, at, g.add("Neg", [picked.name])[0].name])


def own_element_of_all(g):
    """The same by one index into the elements of all rows."""
    value = g.pick(FLOAT, 2)
    flat = g.add("Reshape", [value.name, g.constant(np.array([-1, *value.example.shape[2:]]))])[0]
    width = g.add("Gather", [g.add("Shape", [value.name])[0].name, g.constant(np.int64(1))])[0].name
    first = g.add("Mul", [row_numbers_of(g, value).name, width])[0].name
    inside = g.add(g.some("Mod", "Min"), [g.pick(INT64).name, width])[0].name
    g.add("Gather", [flat.name, g.add("Add", [first, inside])[0].name])


STEPS = (
    reshape,
    flatten,
    squeeze,
    unsqueeze,
    expand,
    tile,
    concat,
    shape_of_parts,
    split,
    cut,
    pad,
    gather,
    gather_elements,
    gather_nd,
    scatter,
    one_hot,
    counted,
    filled,
    shape,
    size,
    row_numbers,
    own_element,
    own_element_of_all,
    unsqueeze,
    gather,
    shape,
    shape,
)
