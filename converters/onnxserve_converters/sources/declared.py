"""The inputs that a source declares, completed with the caller's descriptions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

_BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Declared:
    """One input as a source declares it.

    Attributes:
        name: its name.
        dtype: as in InputSpec.
        shape: a size or a name for each axis, None for a free one without a name; None where no shape is declared.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        axes = "..." if self.shape is None else ",".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name}={self.dtype}[{axes}]"


def complete(
    source: Path, declared: Sequence[Declared], described: Sequence[InputSpec], fixes_rows: bool = False
) -> tuple[InputSpec, ...]:
    """Return the inputs of a source, with names for all free axes.

    Args:
        source: for messages.
        declared: the source's declarations.
        described: the caller's descriptions of some or all inputs: names for free axes, or sizes that fix them.
        fixes_rows: whether the caller may name a first axis that the source fixes to 1.

    Raises:
        BadRequest: the caller contradicts the source, or does not describe an input without a declared shape.
    """
    by_name = {spec.name: spec for spec in described}
    if unknown := [name for name in by_name if name not in {own.name for own in declared}]:
        known = ", ".join(own.name for own in declared) or "none"
        raise BadRequest(f"--input {unknown[0]}: unknown input; {source} has {known}")
    for own in declared:
        if own.name in by_name and not _fits(own, by_name[own.name], fixes_rows):
            raise BadRequest(
                f"--input {by_name[own.name]}: {source} declares {own}; only its free axes can be named or fixed"
            )
    return tuple(by_name.get(own.name) or _named(source, own) for own in declared)


def _fits(own: Declared, spec: InputSpec, fixes_rows: bool) -> bool:
    if spec.dtype != own.dtype:
        return False
    if own.shape is None:
        return True
    if len(spec.shape) != len(own.shape):
        return False
    freed = fixes_rows and own.shape[:1] == (1,) and isinstance(spec.shape[0], str)
    return all(
        not isinstance(fixed, int) or axis == fixed or (freed and i == 0)
        for i, (fixed, axis) in enumerate(zip(own.shape, spec.shape, strict=True))
    )


def _named(source: Path, own: Declared) -> InputSpec:
    if own.shape is None:
        raise BadRequest(
            f"input {own.name}: no shape in {source}; describe it with --input {own.name}={own.dtype}[...]"
        )
    name = re.sub(r"\W", "_", own.name)
    axes = (axis if axis is not None else f"{name}_{i}" if i else _BATCH for i, axis in enumerate(own.shape))
    return InputSpec(own.name, own.dtype, tuple(axes))
