"""Arithmetic on the contents of small values: shapes, axes and what graphs compute from them."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxserve_server.rows.node import is_real
from onnxserve_server.rows.sizes import Size, compare, divide, is_natural, opaque
from onnxserve_server.rows.values import MAX_CONTENTS, Element, Value, contents_of

_FOLLOWED = {TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE}
_LIMITS: dict[int, int] = {TensorProto.INT32: 2**31, TensorProto.INT64: 2**63}
Operation = Callable[..., Any]


def compute(op: str, values: Sequence[Value], dtype: int) -> Value | None:
    """Return the result of an operator, element by element; None if it or its operands are not followed."""
    if not {value.dtype for value in values} <= _FOLLOWED:
        return None
    real = is_real(values[0].dtype)
    operation = (_REAL if real else _WHOLE).get(op) or _ANY.get(op)
    arrays = [value.array() for value in values]
    if operation is None or any(array is None for array in arrays):
        return None
    try:
        aligned = np.broadcast_arrays(*arrays)  # type: ignore[arg-type]
    except ValueError:
        return None
    if aligned[0].size > MAX_CONTENTS:
        return None
    made = np.empty(aligned[0].shape, object)
    for index in np.ndindex(made.shape):
        made[index] = _stored(_one(op, operation, [array[index] for array in aligned]), dtype)
    return contents_of(made, dtype)


def _stored(each: Element, dtype: int) -> Element:
    """Return a result as its type holds it."""
    if isinstance(each, float):
        return float(np.float32(each)) if dtype == TensorProto.FLOAT else each
    if (
        isinstance(each, int)
        and not isinstance(each, bool)
        and dtype in _LIMITS
        and not -_LIMITS[dtype] <= each < _LIMITS[dtype]
    ):
        return opaque("overflow", each)
    return each


def cast(value: Value, dtype: int) -> Value | None:
    """Return a value with its contents as another element type; None if they are not followed."""
    array = value.array()
    if array is None or not {value.dtype, dtype} <= _FOLLOWED:
        return None
    made = np.empty(array.shape, object)
    for index in np.ndindex(made.shape):
        made[index] = _cast(array[index], dtype)
    return contents_of(made, dtype)


def _cast(each: Any, dtype: int) -> Element:
    if isinstance(each, str):
        return opaque("parse", each)
    if dtype == TensorProto.BOOL:
        return _truth(each)
    if is_real(dtype):
        return each if isinstance(each, Size) else _stored(float(each), dtype)
    if isinstance(each, Size):
        return each if is_natural(each) else opaque("int", each)
    limit = _LIMITS[dtype]
    return int(each) if -limit <= each < limit else opaque("int", each)  # infinities and NaN, too


def _truth(each: Element) -> Element:
    if not isinstance(each, Size):
        return bool(each)
    return True if compare(each, 0) in (1, -1) else opaque("bool", each)


def _one(op: str, operation: Operation, operands: Sequence[Any]) -> Element:
    """Return one element of a result; opaque where it is not decided."""
    if any(isinstance(each, Size) for each in operands):
        operands = [int(each) if isinstance(each, float) and each.is_integer() else each for each in operands]
        if any(isinstance(each, (float, str)) for each in operands):
            return opaque(op, *operands)
    try:
        result = operation(*operands)
    except (ArithmeticError, ValueError, TypeError):
        return opaque(op, *operands)
    return opaque(op, *operands) if result is None else result


def _quotient(one: Any, other: Any) -> Any:
    if isinstance(one, Size) or isinstance(other, Size):
        exact = divide(one, other)
        natural = is_natural(one) and is_natural(other)
        return opaque("quotient", one, other, natural=natural) if exact is None else exact
    return int(np.trunc(one / other)) if abs(one) < 2**52 else None


def _real_quotient(one: Any, other: Any) -> Any:
    return divide(one, other) if isinstance(one, Size) or isinstance(other, Size) else one / other


def _remainder(one: Any, other: Any) -> Any:
    if isinstance(one, Size) or isinstance(other, Size):
        natural = is_natural(one) and is_natural(other)
        return 0 if divide(one, other) is not None else opaque("remainder", one, other, natural=natural)
    return one % other if one >= 0 and other > 0 else None


def _chosen(sign: str, is_natural: Callable[[Iterable[bool]], bool]) -> Operation:
    """Return the operation that chooses an extreme; `is_natural`: of how many it takes that they are, any or all."""

    def choose(one: Any, other: Any) -> Any:
        found = _sign(one, other)
        if found is None:
            operands = sorted((one, other), key=repr)
            return opaque(f"choose{sign}", *operands, natural=is_natural(map(_natural, operands)))
        return one if found == 0 or (found > 0) == (sign == ">") else other

    return lambda *operands: reduce(choose, operands)


def _natural(each: Any) -> bool:
    return isinstance(each, (int, Size)) and is_natural(each)


def _sign(one: Any, other: Any) -> int | None:
    if isinstance(one, Size) or isinstance(other, Size):
        return compare(one, other)
    return int(one > other) - int(one < other)


def _compared(signs: set[int]) -> Operation:
    def decide(one: Any, other: Any) -> Any:
        found = _sign(one, other)
        return None if found is None else found in signs

    return decide


def _equal(one: Any, other: Any) -> Any:
    if isinstance(one, (bool, str)) or isinstance(other, (bool, str)):
        return None if isinstance(one, Size) or isinstance(other, Size) else one == other
    return _compared({0})(one, other)


def _where(condition: Any, one: Any, other: Any) -> Any:
    if one == other and type(one) is type(other):
        return one
    if isinstance(condition, Size):
        return opaque("where", condition, one, other, natural=_natural(one) and _natural(other))
    return one if condition else other


def _whole(each: Any) -> Any:
    return (each if is_natural(each) else None) if isinstance(each, Size) else None


def _logic(decide: Callable[[bool, bool], bool]) -> Operation:
    def both(one: Any, other: Any) -> Any:
        return None if isinstance(one, Size) or isinstance(other, Size) else decide(one, other)

    return both


def _absolute(each: Any) -> Any:
    return (each if is_natural(each) else None) if isinstance(each, Size) else abs(each)


def _and(one: Any, other: Any) -> Any:
    if one is False or other is False:
        return False
    return _logic(lambda left, right: left and right)(one, other)


def _sum(*operands: Any) -> Any:
    return sum(operands[1:], operands[0])


_WHOLE: dict[str, Operation] = {"Div": _quotient, "Mod": _remainder, "Max": _chosen(">", any)}
_REAL: dict[str, Operation] = {
    "Div": _real_quotient,
    "Max": _chosen(">", all),  # the larger one may have a fraction
    "Floor": lambda each: _whole(each) if isinstance(each, Size) else float(np.floor(each)),
    "Ceil": lambda each: _whole(each) if isinstance(each, Size) else float(np.ceil(each)),
    "Round": lambda each: _whole(each) if isinstance(each, Size) else float(np.round(each)),
}
_ANY: dict[str, Operation] = {
    "Identity": lambda each: each,
    "Add": lambda one, other: one + other,
    "Sub": lambda one, other: one - other,
    "Mul": lambda one, other: one * other,
    "Neg": lambda each: -each,
    "Abs": _absolute,
    "Sum": _sum,
    "Min": _chosen("<", all),
    "Equal": _equal,
    "Less": _compared({-1}),
    "Greater": _compared({1}),
    "LessOrEqual": _compared({-1, 0}),
    "GreaterOrEqual": _compared({0, 1}),
    "Not": lambda each: None if isinstance(each, Size) else not each,
    "And": _and,
    "Or": _logic(lambda one, other: one or other),
    "Xor": _logic(lambda one, other: one != other),
    "Where": _where,
}
