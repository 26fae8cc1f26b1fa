"""Operators of the standard whose rules need more than the notation, and fit nowhere else."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxserve_server.rows import notation
from onnxserve_server.rows.axes import PURE, Axes, Axis, Meet, Unclear
from onnxserve_server.rows.elementwise_rules import broadcast, tensors
from onnxserve_server.rows.node import Node, from_tensor, place_in
from onnxserve_server.rows.registry import MICROSOFT, ML, rule
from onnxserve_server.rows.sizes import Number, divide, opaque
from onnxserve_server.rows.values import Known, Value, contents_of


@rule("Constant")
def constant(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """What its attribute holds."""
    (name, attribute), *_ = node.attributes.items()
    if name == "value":
        return [from_tensor(attribute.t)]
    if name == "sparse_value":
        return [Value(axes=tuple(map(Axis, attribute.sparse_tensor.dims)))]
    if name in ("value_int", "value_ints"):
        array = np.array(attribute.i if name == "value_int" else list(attribute.ints), np.int64)
        return [contents_of(array, TensorProto.INT64)]
    if name in ("value_float", "value_floats"):
        array = np.array(attribute.f if name == "value_float" else list(attribute.floats), np.float32)
        return [contents_of(array, TensorProto.FLOAT)]
    return [Value(axes=(Axis(len(attribute.strings)),) if name == "value_strings" else (), dtype=TensorProto.STRING)]


@rule("RandomNormal", "RandomUniform")
def random(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Numbers that depend on nothing, in a shape of its own."""
    return [Value(axes=tuple(map(Axis, node.numbers("shape"))), dtype=TensorProto.FLOAT)]


@rule("Resize", "Upsample")
def resize(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Elements between those along some axes; an axis that keeps its size is carried."""
    value, *more = tensors(inputs)
    if any(each.row_axis is not None for each in more):
        raise Meet("the sizes of a row are used for all rows")
    if value.is_shared and all(each.is_shared for each in more) and any(each.contents is None for each in more[-1:]):
        return [value.bare(axes=tuple(Axis(node.fresh(k)) for k in range(value.rank)))]
    if node.text("coordinate_transformation_mode") == "tf_crop_and_resize" and value.row_axis is not None:
        raise Unclear("it cuts regions, which may be regions of rows")
    sizes = _resized(node, value, inputs)
    places = [place_in(axis, value.rank) for axis in node.numbers("axes") or range(value.rank)]
    if len(sizes) != len(places):
        raise Unclear("its scales or sizes do not fit its input")
    axes = list(value.known)
    for k, size in zip(places, sizes, strict=True):
        if size is None or size != axes[k].size:
            if axes[k].rows:
                raise Meet("it mixes the elements along the axis that counts rows")
            axes[k] = Axis(node.fresh(k) if size is None else size)
    followed = None if None in sizes else inputs[3] if len(inputs) > 3 else None
    depends = any(each.by_count for each in tensors(inputs) if each is not followed)
    return [value.bare(axes=tuple(axes), by_count=depends)]


def _resized(node: Node, value: Value, inputs: Sequence[Known | None]) -> list[Number | None]:
    """Return the size of each axis that is resized; None where it cannot be told."""
    sizes = inputs[3] if len(inputs) > 3 else None
    if isinstance(sizes, Value):
        if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
            return [None] * len(sizes.ints())
        return list(sizes.ints())
    place = 1 if node.op == "Upsample" or node.version < 11 else 2
    scales = inputs[place] if len(inputs) > place else None
    if not isinstance(scales, Value) and "scales" not in node.attributes:
        raise Unclear("it has neither scales nor sizes")
    factors = scales.contents if isinstance(scales, Value) else tuple(node.attributes["scales"].floats)
    if factors is None:
        raise Unclear("its scales are computed in the graph")
    chosen = node.numbers("axes") or range(value.rank)
    return [_scaled(value.sizes[k], factor) for k, factor in zip(chosen, factors, strict=True)]


def _scaled(size: Number, factor: object) -> Number | None:
    if factor == 1:
        return size
    if not isinstance(factor, float):
        return None
    if factor.is_integer():
        return size * int(factor)
    return int(size * factor) if isinstance(size, int) else opaque("scaled", size, factor, natural=True)


@rule("Attention")
def attention(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Queries, keys and values of each row; the mask is broadcast to [rows, heads, queries, keys]."""
    padded = [*inputs, *[None] * (7 - len(inputs))]
    query, key, value, mask, past_key, past_value, lengths = padded
    flat = isinstance(query, Value) and query.rank == 3
    text = "bSD, bTK, bTV, b*, b*, b" if flat else "bNSD, bMTK, bMTV, b*, b*, b"
    result = "bSE, bMPK, bMPV, bNSP" if flat else "bNSV, bMPK, bMPV, bNSP"
    made = notation.apply(f"{text} -> {result}", node, [query, key, value, past_key, past_value, lengths])
    if isinstance(mask, Value):
        rows = made[0].known[0]
        merged = broadcast([(rows, Axis(1), Axis(1), Axis(1)), mask.known])
        if any(axis.rows for axis in merged[1:]) or len(merged) > 4:
            raise Meet("the mask of a row is used for all rows")
        made = [replace(each, by_count=each.by_count or mask.by_count) for each in made]
    return made


@rule("RotaryEmbedding")
def rotary(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Each row is turned by the angles at its positions; the caches are the same for all, or one for each row."""
    value, cos, sin, *places = tensors(inputs)
    caches = "_, _, bS" if places else "b*, b*"
    (made,) = notation.apply(f"b*, {caches} -> b*", node, [value, cos, sin, *places])
    return [made]


@rule("GridSample")
@rule("GridSample", domain=MICROSOFT)
def grid_sample(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Pixels of an image at the places that a grid tells, which has the size of the result."""
    space = max(0, tensors(inputs)[0].rank - 2)
    made = "HWD"[:space]
    return notation.apply(f"nC{'XYZ'[:space]}, n{made}P -> nC{made}", node, inputs)


@rule("DFT")
def fourier(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The elements along an axis meet, and the last axis holds complex numbers."""
    value, *_ = tensors(inputs)
    given = inputs[2] if len(inputs) > 2 else None
    default = 1 if node.version < 20 else -2
    axis = given.ints()[0] if isinstance(given, Value) else node.number("axis", default)
    k = place_in(axis, value.rank)
    length = inputs[1] if len(inputs) > 1 else None
    if value.row_axis in (k, value.rank - 1) or (isinstance(length, Value) and length.row_axis is not None):
        raise Meet("it mixes the elements along the axis that counts rows")
    same = not isinstance(length, Value) and not node.number("onesided", 0)
    axes = list(value.known)
    axes[k] = axes[k] if same else Axis(node.fresh("bins"))
    axes[-1] = Axis(node.fresh("parts") if node.number("onesided", 0) and node.number("inverse", 0) else 2)
    return [value.bare(axes=tuple(axes), by_count=any(v.by_count for v in tensors(inputs)))]


@rule("Col2Im")
def col2im(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Columns back to images."""
    _, image, block = tensors(inputs)
    spatial = image.ints()
    made = notation.apply(f"nKL, _, _ -> nC{''.join('WXYZ'[: len(spatial)])}", node, inputs)
    channels = divide(tensors(inputs)[0].sizes[1], block.ints()[0]) if len(block.ints()) == 1 else None
    axes: Axes = (made[0].known[0], made[0].known[1] if channels is None else Axis(channels), *map(Axis, spatial))
    return [replace(made[0], axes=axes)]


@rule("CenterCropPad")
def center_crop_pad(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The middle of some axes."""
    value, shape = tensors(inputs)
    axes = list(value.known)
    for axis, size in zip(node.numbers("axes") or range(value.rank), shape.ints(), strict=True):
        k = place_in(axis, value.rank)
        if size != axes[k].size:
            if axes[k].rows:
                raise Meet("it cuts the axis that counts rows")
            axes[k] = Axis(size)
    return [value.bare(axes=tuple(axes))]


@rule("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Elements along the last axis; of a vector, one line."""
    value, places = tensors(inputs)
    if value.known[-1:] and value.known[-1].rows:
        raise Meet("it picks rows by an index along the axis that counts them")
    if value.row_axis is not None and places.row_axis is not None:
        raise Meet("every row is combined with every other")
    chosen = places.known
    if places.row_axis is not None and any(axis.size != 1 for k, axis in enumerate(chosen) if k != places.row_axis):
        raise Unclear("its indices have several axes")
    picked = PURE if places.row_axis is not None and chosen[places.row_axis].is_pure else None
    if picked is None and places.row_axis is not None:
        raise Unclear("its indices have several axes")
    lead = value.known[:-1] if value.rank > 1 else (Axis(1),)
    last = picked or Axis(node.fresh("picked") if len(chosen) != 1 else chosen[0].outer)
    return [value.bare(axes=(*lead, last), by_count=value.by_count or places.by_count)]
