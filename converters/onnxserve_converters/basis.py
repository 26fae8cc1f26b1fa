"""What a comparison rests on: the caller's samples, rows drawn from what is known of the model, or made-up rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxserve.tensor import Array
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.inputs import InputSpec, Ranges
from onnxserve_converters.samples import FORMATS

SAMPLES, DRAWN, MADE_UP = "samples", "drawn", "made-up"


@dataclass(frozen=True, slots=True)
class Basis:
    """The rows of a comparison.

    Attributes:
        rows: SAMPLES, DRAWN or MADE_UP.
        inputs: what the values of each input are, a phrase each.
        sentence: the verdict.
    """

    rows: str
    inputs: Mapping[str, str]
    sentence: str

    def to_dict(self) -> dict[str, object]:
        """Return it for the report."""
        return {"rows": self.rows, "inputs": dict(self.inputs), "sentence": self.sentence}


def basis_of(inputs: Sequence[InputSpec], ranges: Ranges, samples: Mapping[str, Array] | None, drawer: Drawer) -> Basis:
    """Return what the cases of Cases with the same arguments rest on."""
    if samples is not None:
        names = dict.fromkeys((spec.name for spec in inputs), "your samples")
        return Basis(SAMPLES, names, f"proved on your samples, {_rows(inputs, samples)}")
    known = {spec.name: why for spec in inputs if (why := _why(spec, ranges, drawer))}
    unknown = {spec.name: _made_up(spec) for spec in inputs if spec.name not in known}
    described = {spec.name: (known | unknown)[spec.name] for spec in inputs}
    if unknown:
        return Basis(
            MADE_UP,
            described,
            f"proved on made-up rows: nothing tells what rows of {', '.join(unknown)} look like; give real ones with "
            f"--samples ({FORMATS}), or limits with --range",
        )
    what = "; ".join(f"{name}: {why}" for name, why in described.items())
    return Basis(DRAWN, described, f"proved on rows drawn from the model ({what})")


def _why(spec: InputSpec, ranges: Ranges, drawer: Drawer) -> str:
    """Return what is known of an input; "" for nothing."""
    if (given := ranges.get(spec.name)) is not None:
        return (
            f"one of {', '.join(given)}" if isinstance(given, list) else f"from {given[0]:g} to {given[1]:g}, as asked"
        )
    return drawer.notes.get(spec.name, "texts of words from the vocabulary" if spec.words else "")


def _made_up(spec: InputSpec) -> str:
    if spec.dtype == "string":
        return "made-up strings"
    return "normally distributed" if "float" in spec.dtype else "0 or 1"


def _rows(inputs: Sequence[InputSpec], samples: Mapping[str, Array]) -> str:
    first = samples[inputs[0].name] if inputs else None
    count = len(first) if first is not None and first.ndim else 1
    return f"{count} row{'s' * (count != 1)}"
