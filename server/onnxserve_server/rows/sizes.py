"""Sizes as formulas: the number of rows of a run, free axes, and what a graph computes from them.

A size is an int, or a Size: a polynomial of symbols with whole coefficients. Two sizes that are equal as formulas are
equal in every run; of others nothing is known but what `compare` can decide from the signs.
"""

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import NamedTuple, TypeAlias, Union

Number: TypeAlias = Union[int, "Size"]

_MAX_TERMS = 12


class Symbol(NamedTuple):
    """An unknown number; `by_count`: it depends on the number of rows; `natural`: it is whole, and never below 0.

    `least`: it is at least as large as each of these. `fresh`: it is what a node makes of its inputs, in whatever way,
    and depends on the number of rows if they do; others are formulas of the inputs' axes.
    """

    name: str
    by_count: bool = False
    natural: bool = True
    least: tuple["Number", ...] = ()
    fresh: bool = False


Monomial: TypeAlias = tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """A polynomial: by product of symbols, its coefficient; never a plain number."""

    terms: frozenset[tuple[Monomial, int]]

    @property
    def by_count(self) -> bool:
        """Whether it depends on the number of rows."""
        return any(symbol.by_count for monomial, _ in self.terms for symbol in monomial)

    @property
    def fresh(self) -> bool:
        """Whether one of its symbols is: then it is not a formula of the inputs' axes alone."""
        return any(symbol.fresh for monomial, _ in self.terms for symbol in monomial)

    def __add__(self, other: Number) -> Number:
        terms = Counter(dict(self.terms))
        for monomial, factor in _terms(other):
            terms[monomial] += factor
        return _size(terms)

    def __mul__(self, other: Number) -> Number:
        terms = Counter[Monomial]()
        for (one, factor), (two, times) in product(self.terms, _terms(other)):
            terms[tuple(sorted(one + two))] += factor * times
        return _size(terms)

    def __neg__(self) -> Number:
        return self * -1

    def __sub__(self, other: Number) -> Number:
        return self + other * -1

    def __rsub__(self, other: Number) -> Number:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__


def symbol(name: str, *, by_count: bool = False, fresh: bool = False) -> Size:
    """Return the size that a free axis has, or an axis that a node makes."""
    return Size(frozenset({((Symbol(name, by_count, fresh=fresh),), 1)}))


ROWS = symbol("rows", by_count=True)
"""The number of rows of a run."""


def by_count(*values: object) -> bool:
    """Whether one of some values depends on the number of rows."""
    return any(isinstance(value, Size) and value.by_count for value in values)


def opaque(operation: str, *operands: object, natural: bool = False, least: tuple[Number, ...] = ()) -> Size:
    """Return the unknown result of an operation: the same for the same operands, and by count if one of them is."""
    text = f"{operation}({', '.join(map(_text, operands))})"
    name = text if len(text) < 80 else blake2b(text.encode(), digest_size=16).hexdigest()
    fresh = any(isinstance(operand, Size) and operand.fresh for operand in operands)
    return Size(frozenset({((Symbol(name, by_count(*operands), natural, least, fresh),), 1)}))


def divide(size: Number, by: Number) -> Number | None:
    """Return size / by if that is a formula again, else None."""
    if isinstance(size, int) and isinstance(by, int):
        return size // by if by and size % by == 0 else None
    if size == 0 or by == 0:
        return None if by == 0 else 0
    divisor = _terms(by)
    if len(divisor) == 1:
        return _divided_by_term(size, *divisor[0])
    term = min(divisor)
    for monomial, factor in _terms(size):
        quotient = _divided_by_term(_size(Counter({monomial: factor})), *term)
        if quotient is not None and by * quotient == size:
            return quotient
    return None


def compare(one: Number, other: Number) -> int | None:
    """Return the sign of one - other if it is the same in every run, else None."""
    terms = dict(_terms(one - other))
    if not terms:
        return 0
    constant = terms.pop((), 0)
    if not all(symbol.natural for monomial in terms for symbol in monomial):
        return None
    if constant > 0 and all(factor > 0 for factor in terms.values()):
        return 1
    if constant < 0 and all(factor < 0 for factor in terms.values()):
        return -1
    return None


def is_at_least(size: Number, bound: Number) -> bool:
    """Whether a size is at least as large as a bound in every run."""
    if compare(size, bound) in (0, 1):
        return True
    (monomial, factor), *more = _terms(size) or [((), 0)]
    return len(monomial) == 1 and factor == 1 and not more and bound in monomial[0].least


def is_natural(size: Number) -> bool:
    """Whether a size is at least 0 in every run."""
    return all(factor >= 0 and all(each.natural for each in monomial) for monomial, factor in _terms(size))


def multiply(*sizes: Number) -> Number:
    """Return the product of sizes; 1 of none."""
    result: Number = 1
    for size in sizes:
        result = result * size
    return result


def add(*sizes: Number) -> Number:
    """Return the sum of sizes; 0 of none."""
    result: Number = 0
    for size in sizes:
        result = result + size
    return result


def _terms(size: Number) -> list[tuple[Monomial, int]]:
    if isinstance(size, Size):
        return list(size.terms)
    return [((), int(size))] if size else []


def _size(terms: Counter[Monomial]) -> Number:
    left = frozenset((monomial, factor) for monomial, factor in terms.items() if factor)
    if not left:
        return 0
    if len(left) == 1 and (only := next(iter(left)))[0] == ():
        return only[1]
    made = Size(left)
    return made if len(left) <= _MAX_TERMS else opaque("sum", made, natural=is_natural(made))


def _divided_by_term(size: Number, monomial: Monomial, factor: int) -> Number | None:
    quotient = Counter[Monomial]()
    for have, times in _terms(size):
        left = Counter(have)
        left.subtract(monomial)
        if times % factor or min(left.values(), default=0) < 0:
            return None
        quotient[tuple(sorted(left.elements()))] += times // factor
    return _size(quotient)


def _text(operand: object) -> str:
    if not isinstance(operand, Size):
        return repr(operand)
    return " + ".join(f"{factor}*{'*'.join(each.name for each in names)}" for names, factor in sorted(operand.terms))
